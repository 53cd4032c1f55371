"""Retention: the checkpoints that stay, and the protection of those that are needed."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noether.checkpoint.paths import checkpoint_folders, checkpoint_name, read_manifest, update_of
from noether.checkpoint.retention import Retention, pin, pinned, remove_checkpoint, unpin
from noether.errors import CheckpointError


@pytest.fixture(autouse=True)
def waits_for_no_disk(disk_class: Any, using: Any) -> Any:
    with using(disk_class()) as disk:
        yield disk


@pytest.fixture
def run(tmp_path: Path, saves: Any) -> Any:
    found = saves(tmp_path, keep_last=2)
    found.writer.prepare()
    return found


def updates(run: Any) -> list[int]:
    return [update_of(step) for step in checkpoint_folders(run.checkpoints)]


def save_not_finite(run: Any, update: int, state: Any) -> None:
    run.writer.save()
    run.writer.commit(replace(state, update=update, model={"w": torch.tensor([1.0, float("nan")])}))


def test_the_newest_stay_and_so_does_every_nth(run: Any) -> None:
    run.writer.keep_every = 4
    for update in range(1, 12):
        run.save(update)
    assert updates(run) == [4, 8, 10, 11]


def test_named_steps_stay_until_their_name_moves_on(run: Any) -> None:
    run.save(1, tag="best_model.loss")
    for update in (2, 3, 4):
        run.save(update)
    assert updates(run) == [1, 3, 4]
    run.save(5, tag="best_model.loss")
    assert updates(run) == [4, 5]


def test_pinned_steps_stay_until_they_are_let_go_and_are_not_written_to(run: Any) -> None:
    first = run.save(1)
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    pin(run.checkpoints, 1)
    pin(run.checkpoints, 1)
    for update in (2, 3, 4):
        run.save(update)
    assert updates(run) == [1, 3, 4]
    assert pinned(run.checkpoints) == {1}
    assert Retention(1).prunable(run.checkpoints) == [run.checkpoints / checkpoint_name(3)]
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert unpin(run.checkpoints, 1)
    assert not unpin(run.checkpoints, 1)
    run.save(5)
    assert updates(run) == [4, 5]


def test_a_missing_checkpoint_cannot_be_pinned(run: Any) -> None:
    run.save(1)
    with pytest.raises(CheckpointError) as caught:
        pin(run.checkpoints, 2)
    assert "step-000000000002" in str(caught.value)
    assert pinned(run.checkpoints) == frozenset()


def test_a_step_that_is_pinned_while_it_is_being_removed_stays(run: Any, disk_class: Any, using: Any) -> None:
    step = run.save(1)
    marker = run.checkpoints / "pins" / step.name
    marker.parent.mkdir()

    class Meanwhile(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        def before(self, operation: str, path: Path, *more: Any) -> None:
            if operation == "rename":
                marker.touch()

    with using(Meanwhile()):
        assert not remove_checkpoint(step)
    assert run.recover() == 1


# F4


def test_the_newest_finite_step_is_never_pushed_out(run: Any) -> None:  # F4
    from_good = run.save(2)
    state = run_state(run, 2)
    for update in (3, 4, 5):
        save_not_finite(run, update, state)
    assert updates(run) == [2, 4, 5]
    assert [read_manifest(step).finite for step in checkpoint_folders(run.checkpoints)] == [True, False, False]
    assert from_good is not None
    run.save(6)
    assert updates(run) == [5, 6]


def run_state(run: Any, update: int) -> Any:
    captured: list[Any] = []
    commit = run.writer.commit
    run.writer.commit = captured.append
    run.save(update)
    run.writer.commit = commit
    run.writer.queue.pending = None
    return captured[0]


# Order, and what is none of ours


def test_the_order_is_that_of_the_updates_and_not_of_time(run: Any) -> None:
    run.writer.keep_last = 9
    for update in (1, 2, 3):
        run.save(update)
    for age, update in enumerate((3, 1, 2)):
        os.utime(run.checkpoints / checkpoint_name(update), (age, age))
    assert [update_of(step) for step in Retention(2).prunable(run.checkpoints)] == [1]


def test_folders_that_are_no_steps_are_left_alone(run: Any) -> None:
    foreign = [run.checkpoints / name for name in ("step-mine", "step-1", "step-000000000001.bak", "notes", ".hidden")]
    for folder in foreign:
        folder.mkdir()
    for update in (2, 3, 4):
        run.save(update)
    run.writer.prepare()
    assert updates(run) == [3, 4]
    assert all(folder.is_dir() for folder in foreign)


def test_steps_count_beyond_twelve_digits(run: Any) -> None:
    for update in (10**12 - 1, 10**12, 10**12 + 1):
        run.save(update, 1)
    assert updates(run) == [10**12, 10**12 + 1]


# A refusal to prune


def test_a_refusal_to_prune_is_a_warning_and_is_made_up_for_later(
    run: Any, disk_class: Any, using: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Clinging(disk_class):  # type: ignore[misc,valid-type]  # a fixture gives it
        def before(self, operation: str, path: Path, *more: Any) -> None:
            if operation == "rename" and path.name.startswith("step-"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for update in (1, 2):
        run.save(update)
    with using(Clinging()):
        assert run.save(3) is not None
    assert "cannot remove the old checkpoint" in caplog.text
    assert updates(run) == [1, 2, 3]
    run.save(4)
    assert updates(run) == [3, 4]


def test_a_damaged_step_pushes_out_none_that_a_run_can_go_on_from(run: Any) -> None:
    run.save(1)
    run.save(2)
    (run.checkpoints / checkpoint_name(2) / "manifest.json").write_bytes(b"")
    state = run_state(run, 3)
    run.writer.save(save_optim=False)
    run.writer.commit(state)
    assert updates(run) == [1, 2, 3]
    assert run.recover() == 1
