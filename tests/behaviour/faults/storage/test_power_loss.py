"""The power fails at any moment of a save: the older or the new save is found.

The operations of real saves are recorded. A model of a disk says what may be left of them at each moment: a file that
was not synced may be empty, full of zeros, cut, or whole; of the names in a folder that was not synced any subset of
the later changes may be there. Each such state is built and the real recovery run on it. (A14)
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint.commit import commit_checkpoint
from noether.checkpoint.retention import pin
from noether.errors import CheckpointError

Change = tuple[str, Any]  # a name, and the node it gets; None where it is taken away
Names = dict[str, Any]


@dataclass(eq=False)
class File:
    """A file, as the process sees it and as the disk is sure to have it."""

    data: bytes = b""
    is_synced: bool = False

    def variants(self) -> list[bytes]:
        if self.is_synced:
            return [self.data]
        return [self.data, b"", bytes(len(self.data)), self.data[: len(self.data) // 2]]


@dataclass(eq=False)
class Folder:
    """A folder: the names that the disk is sure to have, and the changes that it may have beside them, each atomic."""

    synced: Names = field(default_factory=dict)
    changes: list[tuple[Change, ...]] = field(default_factory=list)

    def names(self, which: Callable[[int], bool] = lambda _: True) -> Names:
        names = dict(self.synced)
        for index, changes in enumerate(self.changes):
            if which(index):
                for name, node in changes:
                    if node is None:
                        names.pop(name, None)
                    else:
                        names[name] = node
        return names


class ModelledDisk:
    """Possible contents of the disk after some operations.

    Args:
        start: A folder whose content is all on the disk.
    """

    def __init__(self, start: Path) -> None:
        self.start = start
        self.root = self._load(start)

    def _load(self, path: Path) -> Any:
        if path.is_dir():
            return Folder({entry.name: self._load(entry) for entry in path.iterdir()})
        return File(path.read_bytes(), is_synced=True)

    def _at(self, path: Path) -> Any:
        node = self.root
        for part in path.relative_to(self.start).parts:
            node = node.names()[part]
        return node

    def apply(self, operation: str, path: Path, *more: Any) -> None:
        if operation == "write":
            self._at(path).data += more[0]
        elif operation == "fsync":
            self._at(path).is_synced = True
        elif operation == "fsyncdir":
            folder = self._at(path)
            folder.synced, folder.changes = folder.names(), []
        else:
            self._at(path.parent).changes.append(self._changes(operation, path, *more))

    def _changes(self, operation: str, path: Path, target: Path | None = None) -> tuple[Change, ...]:
        if operation == "open":
            return ((path.name, File()),)
        if operation == "mkdir":
            return ((path.name, Folder()),)
        if operation == "rename":
            assert target is not None and target.parent == path.parent, "saves rename within one folder"
            return ((path.name, None), (target.name, self._at(path)))
        assert operation in ("unlink", "rmdir"), operation
        return ((path.name, None),)

    def states(self, samples: int, rng: random.Random) -> Iterator[dict[str, bytes | None]]:
        """Yield possible contents by path; None is a folder.

        First the extremes, where one thing alone is missing, or everything that is not certain; then random ones.
        """
        nodes = list(_nodes(self.root))
        yield _tree(self.root, {}, {})
        yield _tree(self.root, {}, {id(node): lambda _: False for node in nodes if isinstance(node, Folder)})
        for node in nodes:
            if isinstance(node, Folder):
                for lost in range(len(node.changes)):
                    yield _tree(self.root, {}, {id(node): lambda index, lost=lost: index != lost})
                    yield _tree(self.root, {}, {id(node): lambda index, lost=lost: index < lost})
            else:
                for data in node.variants()[1:]:
                    yield _tree(self.root, {id(node): data}, {})
        for _ in range(samples):
            data = {id(node): rng.choice(node.variants()) for node in nodes if isinstance(node, File)}
            chosen = {
                id(node): frozenset(index for index in range(len(node.changes)) if rng.random() < 0.5).__contains__
                for node in nodes
                if isinstance(node, Folder)
            }
            yield _tree(self.root, data, chosen)


def _nodes(node: Any) -> Iterator[Any]:
    """Yield everything that may have a name."""
    yield node
    if isinstance(node, Folder):
        children = [*node.synced.values(), *(child for changes in node.changes for _, child in changes if child)]
        for child in {id(child): child for child in children}.values():
            yield from _nodes(child)


def _tree(
    node: Any, data: Mapping[int, bytes], chosen: Mapping[int, Callable[[int], bool]], path: str = ""
) -> dict[str, bytes | None]:
    if isinstance(node, File):
        return {path: data.get(id(node), node.data)}
    tree: dict[str, bytes | None] = {path: None} if path else {}
    for name, child in node.names(chosen.get(id(node), lambda _: True)).items():
        tree |= _tree(child, data, chosen, f"{path}/{name}" if path else name)
    return tree


# What is saved


@dataclass(frozen=True)
class Scene:
    """The state before, the recorded operations, and the saves that may be found at each moment.

    Attributes:
        before: Updates that are saved already.
        act: What is recorded; the n-th save in it that is acknowledged is the save 9, 10, ….
        keep_last: How many steps stay.
        pinned: An update that is pinned first of all.
    """

    before: tuple[int, ...]
    act: Callable[[Any], object]
    keep_last: int = 1
    pinned: int | None = None


SCENES = {
    "first saves": Scene((), lambda saves: [saves.save(2, 9), saves.save(4, 10)]),
    "keep 1": Scene((4,), lambda saves: saves.save(6, 9)),
    "keep 2": Scene((2, 4), lambda saves: saves.save(6, 9), keep_last=2),
    "replaced": Scene((4,), lambda saves: saves.save(4, 9)),
    "pinned": Scene((2, 4), lambda saves: saves.save(6, 9), pinned=2),
}
Operation = tuple[Any, ...]


@dataclass(frozen=True)
class Recording:
    """A scene that was played.

    Attributes:
        start: What was there before.
        operations: What was done; `("acknowledged",)` and `("pinned",)` stand where the caller was told so.
    """

    scene: Scene
    start: Path
    operations: list[Operation]


@pytest.fixture(scope="module")
def recordings() -> dict[str, Recording]:
    return {}


@pytest.fixture
def recorded(
    saves: Any, disk_class: Any, using: Any, tmp_path_factory: pytest.TempPathFactory, recordings: dict[str, Recording]
) -> Callable[[str], Recording]:
    def record(name: str) -> Recording:
        if name not in recordings:
            recordings[name] = play(SCENES[name], tmp_path_factory.mktemp("scene"), saves, disk_class, using)
        return recordings[name]

    return record


def play(scene: Scene, folder: Path, saves_class: Any, disk_class: Any, using: Any) -> Recording:
    operations: list[Operation] = []

    class Recorder(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        def before(self, *operation: Any) -> None:
            operations.append(operation)

    def committing(*arguments: Any, **options: Any) -> Path:
        step: Path = commit_checkpoint(*arguments, **options)
        operations.append(("acknowledged",))
        return step

    with using(disk_class()):
        saves = saves_class(folder / "played", scene.keep_last)
        (folder / "played").mkdir()
        if scene.before:
            saves.writer.keep_last = 9
            for update in scene.before:
                saves.save(update)
            saves.writer.keep_last = scene.keep_last
    start = shutil.copytree(folder / "played", folder / "start")
    with using(Recorder()), pytest.MonkeyPatch.context() as patch:
        patch.setattr("noether.checkpoint.commit.commit_checkpoint", committing)
        if scene.pinned is not None:
            pin(saves.checkpoints, scene.pinned)
            operations.append(("pinned",))
        scene.act(saves)
    return Recording(scene, start, [_moved(operation, folder / "played", start) for operation in operations])


def _moved(operation: Operation, old: Path, new: Path) -> Operation:
    return tuple(new / part.relative_to(old) if isinstance(part, Path) else part for part in operation)


# What is found


class Explorer:
    """Runs the recovery on the states that a power failure may leave.

    Attributes:
        states: How many different ones there were.
        violations: What was found where something else had to be.
    """

    def __init__(self, recording: Recording, saves_class: Any, folder: Path) -> None:
        self.recording = recording
        self.saves_class = saves_class
        self.folder = folder
        self.states = 0
        self.violations: list[str] = []

    def explore(self, samples: int, *, since: int = 0, seed: int = 0) -> None:
        """Look at each moment from operation `since` on, until something is wrong."""
        rng = random.Random(seed)
        scene = self.recording.scene
        disk = ModelledDisk(self.recording.start)
        saved: list[int | None] = [*scene.before][-1:]
        seen: set[int] = set()
        acknowledged, is_pinned = 0, False
        for moment in range(len(self.recording.operations) + 1):
            allowed = frozenset({*(saved or [None]), 9 + acknowledged})
            pinned = scene.pinned if is_pinned else None
            for state in disk.states(samples, rng) if moment >= since else ():
                key = hash((frozenset(state.items()), allowed, pinned))
                if key not in seen:
                    seen.add(key)
                    self._check(state, allowed, f"at {moment}", pinned)
            self.states = len(seen)
            if self.violations:
                return
            if moment < len(self.recording.operations):
                operation = self.recording.operations[moment]
                if operation == ("acknowledged",):
                    saved, acknowledged = [9 + acknowledged], acknowledged + 1
                elif operation == ("pinned",):
                    is_pinned = True
                else:
                    disk.apply(*operation)

    def _check(self, state: Mapping[str, bytes | None], allowed: Any, when: str, pinned: int | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for path, data in state.items():
            if data is None:
                (self.folder / path).mkdir(exist_ok=True)
            else:
                (self.folder / path).write_bytes(data)
        saves = self.saves_class(self.folder)
        try:
            found = saves.recover()
        except CheckpointError as error:
            self.violations.append(f"{when}: {error.message}")
            return
        if found not in allowed:
            self.violations.append(f"{when}: found {found}, expected {allowed}")
        if pinned is not None and not any(step.name.endswith(f"{pinned:012d}") for step in saves.writer.checkpoints):
            self.violations.append(f"{when}: the pinned step is gone")


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        *((name, 1) for name in ("keep 1", "replaced", "pinned")),
        *(pytest.param(name, 150, marks=pytest.mark.chaos) for name in SCENES),
    ],
)
def test_after_any_power_failure_the_older_save_or_the_new_one_is_found(
    name: str,
    samples: int,
    recorded: Callable[[str], Recording],
    saves: Any,
    disk_class: Any,
    using: Any,
    tmp_path: Path,
    figures: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")
    explorer = Explorer(recorded(name), saves, tmp_path / "state")
    with using(disk_class()):
        explorer.explore(samples)
    figures("power failures", states=explorer.states)
    assert explorer.violations == []
    assert explorer.states > 100


# The model sees what it has to see: no sync may be left out, and nothing may be removed earlier


def mutants(recording: Recording) -> Iterator[tuple[str, list[Operation], int]]:
    """Yield the change, the changed operations, and the next acknowledgement, from which on it can matter."""
    operations = recording.operations
    for index, operation in enumerate(operations):
        if operation[0] in ("fsync", "fsyncdir"):
            path = operation[1].relative_to(recording.start)
            since = operations.index(("acknowledged",), index)
            yield f"without {operation[0]} of {path} ({index})", operations[:index] + operations[index + 1 :], since
    acknowledged = operations.index(("acknowledged",))
    removed = [operation for operation in operations[acknowledged:] if operation[0] in ("unlink", "rmdir", "rename")]
    if removed and recording.scene.keep_last == 1:
        first = next(index for index, operation in enumerate(operations) if operation[0] == "mkdir")
        yield "removing first", [*operations[:first], removed[0], *operations[first:]], first


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "keep 1" else pytest.mark.chaos)
        for name in ("keep 1", "keep 2", "replaced")
    ],
)
def test_every_sync_is_needed(
    name: str,
    recorded: Callable[[str], Recording],
    saves: Any,
    disk_class: Any,
    using: Any,
    tmp_path: Path,
    figures: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")
    survivors, tried = [], 0
    for what, operations, since in mutants(recorded(name)):
        tried += 1
        mutant = Recording(recorded(name).scene, recorded(name).start, operations)
        explorer = Explorer(mutant, saves, tmp_path / "state")
        with using(disk_class()):
            explorer.explore(0, since=since)
        if not explorer.violations:
            survivors.append(what)
    figures("power failure mutants", tried=tried)
    assert survivors == []
    assert tried > 8
