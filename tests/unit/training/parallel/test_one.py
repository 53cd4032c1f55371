"""Ranks: one works; several are refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from noether.errors import UsageError
from noether.testing import make_trainer
from noether.training.parallel import Parallel, Single, parallel_of
from noether.training.parallel.one import WORLD_SIZE


@pytest.mark.parametrize("environment", [{}, {WORLD_SIZE: "1"}, {WORLD_SIZE: ""}])
def test_one_process_is_a_run_of_one_rank(environment: dict[str, str]) -> None:
    parallel: Parallel = parallel_of(environment)
    model, value = nn.Linear(1, 1), torch.ones(2)
    assert (parallel.world, parallel.rank, parallel.is_writer) == (1, 0, True)
    assert parallel.prepare(model, None, torch.device("cpu")) is model
    assert parallel.reduce(value) is value
    assert parallel.gather(value) == [value]
    assert [parallel.vote(15, stops, now=True) for stops in (True, False)] == [(15, True), (15, False)]
    with parallel.no_sync(model):
        assert parallel.share(value) is value
    assert isinstance(parallel, Single)


@pytest.mark.parametrize("world", ["2", "0", "many"])
def test_any_other_number_of_ranks_is_refused(world: str) -> None:
    with pytest.raises(UsageError) as error:
        parallel_of({WORLD_SIZE: world})
    assert world in str(error.value)
    assert error.value.hint is not None


def test_a_trainer_that_is_built_by_hand_refuses_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORLD_SIZE, "2")
    with pytest.raises(UsageError) as caught:
        make_trainer(tmp_path)
    assert WORLD_SIZE in str(caught.value)
