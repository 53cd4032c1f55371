"""The progress of a run in its state dict, and a trainer's read-only attributes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from noether.errors import PluginError
from noether.testing import make_counter, make_trainer
from noether.training.state import RunState

READ_ONLY = [
    "update_counter", "last_loss", "applied", "seconds", "is_resumed", "has_ended", "stop_reason", "stopped_by",
    "total_training_updates", "finite_guard",
]  # fmt: skip


class Interrupted:
    """The beginning of a round that a stop has interrupted."""

    def __init__(self) -> None:
        self.states, self.files = {}, {}  # type: ignore[var-annotated]

    def state_dict(self) -> dict[str, int]:
        return {"metrics": 1}


def test_progress_goes_through_the_state_dict() -> None:
    state = RunState(make_counter(update=7), has_ended=True)
    other = RunState(make_counter())
    other.load_state_dict(state.state_dict())
    assert other.counter.cur_iteration == state.counter.cur_iteration
    assert (other.has_ended, other.round_to_repeat) == (True, None)


def test_a_pending_round_is_the_round_that_a_resumed_run_repeats() -> None:
    state = RunState(make_counter(), pending_round=Interrupted())
    first = RunState(make_counter())
    first.load_state_dict(state.state_dict())
    second = RunState(make_counter())
    second.load_state_dict(first.state_dict())
    assert second.round_to_repeat == {"metrics": 1}


@pytest.mark.parametrize("name", READ_ONLY)
def test_the_attributes_of_a_trainer_read_its_state(tmp_path: Path, name: str) -> None:
    trainer = make_trainer(tmp_path)
    known = getattr(trainer, name)
    with pytest.raises(PluginError):
        setattr(trainer, name, known)


def test_the_loss_of_a_trainer_is_that_of_its_update(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.one_update.recall(torch.tensor(2.0))
    assert trainer.last_loss == 2.0
