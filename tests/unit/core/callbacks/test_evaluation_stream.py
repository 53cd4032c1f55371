"""Data for callbacks outside of their intervals."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from noether.core.callbacks.evaluation import EvaluationStream
from noether.data.loader import evaluation_pass
from noether.testing import make_callback, make_trainer

CPU = torch.device("cpu")


@pytest.fixture
def passes(tmp_path: Path) -> Any:
    """Two callbacks over `test` and `train`, and a stream for them."""
    trainer = make_trainer(tmp_path)
    callbacks = [make_callback({"kind": "offline-loss", "dataset_key": key}, trainer) for key in ("test", "train")]
    consumers = [callback.sampler_config for callback in callbacks]
    return callbacks, EvaluationStream(trainer.data_container, lambda: consumers, device=CPU)


@pytest.mark.parametrize("batch_size", [4, 7])
def test_every_dispatch_goes_through_all_data_from_the_beginning(passes: Any, batch_size: int) -> None:
    callbacks, stream = passes
    for size in (batch_size, batch_size, 3):
        batches = stream.passes(size)
        for callback in callbacks:
            seen = torch.cat([batch["x"] for batch in evaluation_pass(batches, callback.sampler_config, size)])
            whole = callback.data_container.get_dataset(callback.dataset_key)
            assert torch.equal(seen, torch.stack([whole[index]["x"] for index in range(len(whole))]))


def test_a_pass_that_was_left_half_read_does_not_disturb_the_next(passes: Any) -> None:
    _, stream = passes
    first = next(stream.passes(4))
    assert torch.equal(next(stream.passes(4)).batch["x"], first.batch["x"])


def test_without_callbacks_over_data_there_is_none(passes: Any) -> None:
    callbacks, _ = passes
    assert list(EvaluationStream(callbacks[0].data_container, list, device=CPU).passes(4)) == []


def test_closing_stops_the_workers_even_while_batches_are_held(passes: Any) -> None:
    callbacks, stream = passes
    callbacks[0].data_container.num_workers = 1
    batches = stream.passes(4)
    next(batches)
    assert len(multiprocessing.active_children()) == 1
    stream.close()
    assert multiprocessing.active_children() == []
    assert list(batches) == []
