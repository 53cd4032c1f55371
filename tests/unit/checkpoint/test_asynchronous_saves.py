"""An asynchronous save has the same bytes as a synchronous one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noether.checkpoint.commit import CheckpointFolder
from noether.checkpoint.durable import Content
from noether.checkpoint.manifest import Manifest
from noether.checkpoint.paths import PathProvider, read_checkpoint
from noether.checkpoint.save import LAST, SavePolicy
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.errors import StorageError, TrainingError


class SlowFolder(CheckpointFolder):
    """A folder that writes a checkpoint on demand, and refuses some."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()
        self.refused: set[int] = set()

    def commit(self, files: Mapping[str, Content], manifest: Manifest) -> Path:
        assert self.may_write.wait(10)
        if manifest.update in self.refused:
            raise StorageError(f"update {manifest.update} is refused")
        return super().commit(files, manifest)


class Training:
    """Something to save, whose tensors, lists and counters are changed in place."""

    def __init__(self) -> None:
        self.update = 0
        self.weight, self.frozen, self.moment = torch.zeros(3), torch.zeros(2), torch.zeros(3)
        self.history: list[int] = []

    def go_on(self, updates: int = 1) -> None:
        self.update += updates
        self.history.append(self.update)
        for tensor in (self.weight, self.frozen, self.moment):
            tensor.add_(updates)
        if self.update % 5 == 0:
            self.frozen.fill_(float("nan"))

    def state(self) -> CheckpointState:
        return CheckpointState(
            epoch=0,
            update=self.update,
            sample=self.update,
            model={"a.weight": self.weight, "b.frozen": self.frozen, "b.tied": self.weight},
            optimizer_tensors={"model/a.weight/exp_avg": self.moment},
            optimizer_values={"model": {"history": self.history}},
            trainer={"update": self.update},
            callbacks={"best": {"history": self.history, "seen": self.weight}},
            data={},
            ranks=[{"torch": f"{self.update:04x}"}],
            frozen=frozenset({"b.frozen"}),
            callback_files={"ema": {"0.9": {"a.weight": self.moment}}},
        )


def asynchronous(folder: Path, keep_last: int = 3) -> CheckpointWriter:
    writer = CheckpointWriter(PathProvider(folder, "run"), keep_last=keep_last)
    writer.asynchronous = True
    return writer


@dataclass
class Slow:
    """A writer, and its folder that writes on demand."""

    writer: CheckpointWriter
    folder: SlowFolder
    training: Training

    def save(self, tag: str | None = None) -> Path | None:
        self.training.go_on()
        self.writer.save(tag)
        return self.writer.commit(self.training.state())


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    writer = asynchronous(tmp_path)
    writer.folder = folder = SlowFolder(writer.folder.path)
    writer.prepare()
    yield Slow(writer, folder, Training())
    folder.may_write.set()


def test_commit_does_not_wait_for_the_disk_and_settle_does(slow: Slow) -> None:
    assert slow.save() is None
    assert slow.writer.checkpoints == []
    assert slow.writer.queue.in_flight is not None
    assert not slow.writer.queue.in_flight.has_ended
    slow.folder.may_write.set()
    step = slow.writer.settle()
    assert slow.writer.checkpoints == [step]
    assert slow.writer.queue.in_flight is None
    assert slow.writer.settle() is None


def test_what_training_changes_meanwhile_is_not_saved(slow: Slow) -> None:
    slow.save()
    there = slow.training.state()
    slow.training.go_on(10)
    slow.folder.may_write.set()
    manifest, files = read_checkpoint(slow.writer.settle() or Path())
    assert manifest.update == there.update == 1
    assert b"10" not in files["trainer.json"]
    assert files["model.safetensors"].endswith(torch.ones(5).numpy().tobytes())
    assert manifest.finite, "the frozen weight became NaN afterwards"


def test_names_and_the_last_step_change_when_the_step_is_there_and_taken_up(slow: Slow) -> None:
    slow.save("best")
    assert slow.writer.names == {}
    assert slow.writer.last_committed is None
    slow.folder.may_write.set()
    step = slow.writer.settle()
    assert slow.writer.names["best"].update == 1
    assert slow.writer.last_committed == step


def test_a_second_save_is_not_begun_while_one_is_in_flight(slow: Slow) -> None:
    slow.save()
    with pytest.raises(AssertionError):
        slow.save()


def test_the_last_save_is_there_when_commit_returns(slow: Slow) -> None:
    slow.folder.may_write.set()
    step = slow.save(LAST)
    assert slow.writer.checkpoints == [step]


def test_another_name_for_a_save_in_flight_waits_until_it_is_there(slow: Slow) -> None:
    slow.save("best")
    threading.Timer(0.05, slow.folder.may_write.set).start()
    slow.writer.name("best.of-before", of="best")
    slow.writer.settle()
    assert slow.writer.names["best.of-before"] == slow.writer.names["best"]


def test_a_refused_save_is_reported_at_the_next_boundary_and_the_names_stay(slow: Slow) -> None:
    slow.folder.may_write.set()
    slow.folder.refused = {2}
    slow.save("best")
    slow.writer.settle()
    slow.save("best")
    with pytest.raises(StorageError) as caught:
        slow.writer.settle()
    assert "2" in str(caught.value)
    assert slow.writer.names["best"].update == 1
    assert slow.writer.settle() is None, "an error is told once"


def test_warn_goes_on_after_a_refused_save(slow: Slow, caplog: pytest.LogCaptureFixture) -> None:
    slow.folder.may_write.set()
    slow.folder.refused = {1}
    slow.writer.policy = SavePolicy("warn")
    slow.save("best")
    with caplog.at_level(logging.WARNING):
        assert slow.writer.settle() is None
    assert "failed save 1 of 3); the names best stay where they were" in caplog.text
    slow.save()
    step = slow.writer.settle()
    assert slow.writer.checkpoints == [step]
    assert read_checkpoint(step or Path())[0].parent is None, "a step that is not there is nobody's parent"


def test_a_state_that_cannot_be_saved_is_reported_at_once(slow: Slow) -> None:
    slow.training.history.append(object())  # type: ignore[arg-type]  # the mistake that is told
    with pytest.raises(TrainingError):
        slow.save()
    assert slow.writer.queue.in_flight is None


def parts() -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries(
        {
            "tag": st.sampled_from([None, "best", "best.of-loss"]),
            "save_weights": st.booleans(),
            "save_optim": st.booleans(),
            "model_names": st.sampled_from([None, ["a"], ["a", "b"]]),
            "save_frozen_weights": st.booleans(),
        }
    )


schedules = st.lists(
    st.tuples(st.integers(0, 3), st.lists(parts(), min_size=1, max_size=2), st.booleans(), st.booleans()), max_size=6
)


def trained(writer: CheckpointWriter, schedule: list[tuple[int, list[dict[str, object]], bool, bool]]) -> None:
    """Save on a schedule; some saves are settled before training goes on, and some get a name while in flight."""
    training = Training()
    writer.prepare()
    for updates, requests, is_settled, is_renamed in schedule:
        training.go_on(updates)
        for request in requests:
            writer.save(**request)  # type: ignore[arg-type]  # as drawn
        writer.settle()
        writer.commit(training.state())
        if is_settled:
            writer.settle()
        if is_renamed:
            writer.name("copy", of="best")
        training.weight.mul_(1.5)
    writer.save(LAST)
    writer.settle()
    writer.commit(training.state())


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@settings(max_examples=30)
@given(schedule=schedules, keep_last=st.integers(1, 3))
def test_every_schedule_of_saves_ends_with_the_bytes_of_synchronous_ones(
    schedule: list[tuple[int, list[dict[str, object]], bool, bool]], keep_last: int
) -> None:
    with TemporaryDirectory() as ours, TemporaryDirectory() as theirs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # whether bytes are stored is no matter here
        background = asynchronous(Path(ours), keep_last)
        straight = CheckpointWriter(PathProvider(Path(theirs), "run"), keep_last=keep_last)
        trained(background, schedule)
        trained(straight, schedule)
        assert bytes_below(Path(ours)) == bytes_below(Path(theirs))
        assert background.names == straight.names
