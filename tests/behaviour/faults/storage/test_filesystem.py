"""The disk refuses, or the process dies, at each operation of a save: the older or the new save is there.

Every operation is tried in turn until a save has none left to fail at.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint.paths import checkpoint_folders, read_checkpoint, update_of
from noether.checkpoint.retention import pin, pinned, unpin
from noether.checkpoint.saved import CheckpointNames
from noether.errors import StorageError

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # forked on purpose
KILLED, FAILED = 137, 3


@dataclass(frozen=True)
class Scene:
    """The state before, the operation, and the saves that may be found after it.

    Attributes:
        before: Updates that are saved already, each as the save of its own number.
        act: What is done while the disk fails.
        found: The save that is found where nothing came of it.
        saved: The one that has to be found where all of it was acknowledged.
        between: Further ones that may be found where it failed, because it saves more than once.
        keep_last: How many steps stay.
        stay: Updates whose steps stay whatever happens.
    """

    before: tuple[int, ...]
    act: Callable[[Any], object]
    found: int | None
    keep_last: int = 1
    stay: tuple[int, ...] = ()
    saved: int = 9
    between: tuple[int, ...] = ()


def save_next(saves: Any) -> None:
    saves.save(6, 9)


def save_again(saves: Any) -> None:
    saves.save(4, 9)


def pin_and_save(saves: Any) -> None:
    pin(saves.checkpoints, 4)
    saves.save(6, 9)


def unpin_and_save(saves: Any) -> None:
    pin(saves.checkpoints, 2)
    saves.save(6, 8)
    unpin(saves.checkpoints, 2)
    saves.save(7, 9)


SCENES = {
    "first save": Scene((), save_next, None),  # A4
    "new step, keep 1": Scene((2, 4), save_next, 4),
    "new step, keep 2": Scene((1, 2, 4), save_next, 4, keep_last=2),
    "step replaced, keep 1": Scene((4,), save_again, 4),
    "step replaced, keep 2": Scene((2, 4), save_again, 4, keep_last=2, stay=(2,)),
    "step saved equally again": Scene((2, 4), lambda saves: saves.save(4, 4), 4, 2, (2, 4), saved=4),
    "pinned": Scene((2, 4), pin_and_save, 4),
    "pinned and let go": Scene((1, 2), unpin_and_save, 2, between=(8,)),
}
ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT")


@pytest.fixture(autouse=True)
def waits_for_no_disk(disk_class: Any, using: Any) -> Iterator[None]:
    """Skip fsync: the files that a process leaves do not depend on it."""
    with using(disk_class()):
        yield


@pytest.fixture(scope="module")
def templates() -> dict[str, Path]:
    return {}


@pytest.fixture
def begun(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, templates: dict[str, Path], saves: Any) -> Any:
    """Return a fresh copy of the state before a scene."""
    numbers = itertools.count()

    def begin(name: str) -> Any:
        scene = SCENES[name]
        if name not in templates:
            templates[name] = tmp_path_factory.mktemp("template")
            template = saves(templates[name], keep_last=9)
            template.writer.prepare()
            for update in scene.before:
                template.save(update)
        folder = tmp_path / str(next(numbers))
        shutil.copytree(templates[name], folder, copy_function=os.link)  # a step is never written to
        found = saves(folder, scene.keep_last)
        found.writer.prepare()
        return found

    return begin


def check(scene: Scene, saves: Any, *, done: bool) -> None:
    """Recover as the next start does, and go on."""
    found = saves.recover()
    assert found in ((scene.saved,) if done else (scene.found, *scene.between, scene.saved)), f"found {found}"
    steps = {update_of(step) for step in checkpoint_folders(saves.checkpoints)}
    assert steps.issuperset(scene.stay)
    assert steps.issuperset(pinned(saves.checkpoints) & set(scene.before))
    for step in checkpoint_folders(saves.checkpoints):
        read_checkpoint(step)
    hidden = [path.name for path in saves.checkpoints.iterdir() if path.name.startswith(".")]
    assert hidden == []
    saves.save(10)
    assert saves.recover() == 10


def in_child(act: Callable[[], object]) -> int:
    """Do something in a forked process; return its exit status."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            act()
            status = 0
        except StorageError:
            status = FAILED
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# A2, A3, A4: kill -9


class Dead(BaseException):
    """Stands for SIGKILL: code that runs after it finds a disk that does nothing."""


def die() -> None:
    raise Dead


def killed_at_every_operation(
    name: str, torn: bool, begun: Any, disk_class: Any, using: Any, *, kill: Callable[[], object], forked: bool
) -> int:
    class Killer(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        def before(self, operation: str, path: Path, *more: Any) -> int | None:
            super().before(operation, path)
            if len(self.operations) == nth and torn and operation == "write":
                with path.open("ab") as file:
                    file.write(more[0][: len(more[0]) // 2])
            if len(self.operations) >= nth:
                kill()
            return None

    scene = SCENES[name]
    for nth in itertools.count(1):
        saves, status = begun(name), 0
        with using(Killer()):
            if forked:
                status = in_child(lambda saves=saves: scene.act(saves))
            else:
                try:
                    scene.act(saves)
                except Dead:
                    status = KILLED
        assert status in (0, KILLED)
        check(scene, saves, done=status == 0)
        if status == 0:
            return nth - 1
    raise AssertionError("unreachable")


def scenes(quick: dict[str, tuple[bool, ...]]) -> list[Any]:
    """Return all scenes, killed before a write and inside of it; those that are not quick are for a long run."""
    return [
        pytest.param(name, torn, marks=() if torn in quick.get(name, ()) else pytest.mark.chaos, id=f"{name}-{kind}")
        for name in SCENES
        for torn, kind in ((False, "before"), (True, "torn"))
    ]


@pytest.mark.parametrize(
    ("name", "torn"), scenes(dict.fromkeys(SCENES, (False,)) | {"new step, keep 1": (False, True)})
)
def test_dead_at_every_operation_of_a_save(
    name: str, torn: bool, begun: Any, disk_class: Any, using: Any, figures: Any
) -> None:
    points = killed_at_every_operation(name, torn, begun, disk_class, using, kill=die, forked=False)
    figures("file-system faults", points=points)
    assert points > 24


@pytest.mark.parametrize(("name", "torn"), scenes({"new step, keep 1": (False,)}))
def test_a_process_killed_at_every_operation_of_a_save(
    name: str, torn: bool, begun: Any, disk_class: Any, using: Any, figures: Any
) -> None:
    def kill() -> None:
        os._exit(KILLED)

    points = killed_at_every_operation(name, torn, begun, disk_class, using, kill=kill, forked=True)
    figures("file-system faults", points=points)
    assert points > 24


# B1, B3: the disk refuses


def refused_at_every_operation(name: str, error: str, for_good: bool, begun: Any, disk_class: Any, using: Any) -> int:
    class Refusing(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        failed = False

        def before(self, operation: str, path: Path, *more: Any) -> int | None:
            super().before(operation, path)
            if len(self.operations) == nth or (for_good and len(self.operations) > nth):
                self.failed = True
                code = getattr(errno, error)
                raise OSError(code, os.strerror(code))
            return None

    scene = SCENES[name]
    for nth in itertools.count(1):
        saves = begun(name)
        raised = False
        with using(Refusing()) as disk:
            try:
                scene.act(saves)
            except StorageError as refusal:
                raised = True
                assert os.strerror(getattr(errno, error)) in refusal.message
        if not for_good:
            assert not list(saves.checkpoints.glob(".tmp-*/")) or disk.operations[-1][0] in ("unlink", "rmdir")
        check(scene, saves, done=not raised)
        if not disk.failed:
            return nth - 1
    raise AssertionError("unreachable")


@pytest.mark.parametrize("name", ["first save", "new step, keep 2", "step replaced, keep 1"])
def test_refused_once_at_every_operation_of_a_save(name: str, begun: Any, disk_class: Any, using: Any) -> None:
    assert refused_at_every_operation(name, "ENOSPC", False, begun, disk_class, using) > 24


@pytest.mark.chaos
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", SCENES)
def test_refused_by_every_error_at_every_operation_of_a_save(
    name: str, error: str, for_good: bool, begun: Any, disk_class: Any, using: Any, figures: Any
) -> None:
    figures("file-system faults", points=refused_at_every_operation(name, error, for_good, begun, disk_class, using))


def test_short_writes_are_continued(begun: Any, disk_class: Any, using: Any) -> None:  # B3
    class Reluctant(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        def before(self, operation: str, path: Path, *more: Any) -> int | None:
            super().before(operation, path)
            return 7 if operation == "write" else None

    saves = begun("new step, keep 2")
    with using(Reluctant()) as disk:
        saves.save(6, 9)
    assert saves.recover() == 9
    assert len(disk.operations) > 300


def test_a_file_that_could_not_be_synced_is_thrown_away_and_never_synced_again(  # B3
    begun: Any, disk_class: Any, using: Any
) -> None:
    class Lossy(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        def before(self, operation: str, path: Path, *more: Any) -> int | None:
            super().before(operation, path)
            if operation == "fsync" and path.name == "model.safetensors" and self.fails:
                self.fails = False
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return None

        fails = True

    saves = begun("new step, keep 2")
    with using(Lossy()) as disk:
        with pytest.raises(StorageError) as caught:
            saves.save(6, 9)
        assert os.strerror(errno.EIO) in str(caught.value)
        assert list(saves.checkpoints.glob(".*")) == []
        saves.save(6, 9)
    synced = [path for operation, path in disk.operations if operation == "fsync" and path.name == "model.safetensors"]
    assert len(synced) == len(set(synced)) == 2
    assert saves.recover() == 9


# Nothing goes around the counted operations


def test_every_change_to_the_disk_is_counted(begun: Any, disk_class: Any, using: Any, tmp_path: Path) -> None:
    """Record the files that Python opens, makes, renames and removes; H4 without a tracer."""
    reported = {"os.mkdir": "mkdir", "os.rename": "rename", "os.remove": "unlink", "os.rmdir": "rmdir"}
    seen: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in reported:
            seen.append(reported[event])
        elif (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
        ):
            seen.append("open")

    def act() -> None:
        sys.addaudithook(audit)
        scene.act(saves)
        reading = ("write", "fsync", "fsyncdir")
        assert seen == [operation for operation, _ in disk.operations if operation not in reading]
        assert len(seen) > 20

    for name in ("pinned", "pinned and let go", "step replaced, keep 1"):
        scene, saves = SCENES[name], begun(name)
        with using(disk_class()) as disk:
            assert in_child(act) == 0


# A name is never lost, and never points to a step that is not there


def test_a_save_that_fails_leaves_names_where_they_were(begun: Any, disk_class: Any, using: Any) -> None:
    class Full(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        def before(self, operation: str, path: Path, *more: Any) -> int | None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    saves = begun("new step, keep 2")
    saves.save(5, 5, "best_model.loss")
    with using(Full()), pytest.raises(StorageError):
        saves.save(6, 6, "best_model.loss")
    saves.save(7, 7)
    assert CheckpointNames(saves.checkpoints).find("best_model.loss").saved.manifest.update == 5
