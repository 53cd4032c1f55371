"""Indices and batches arrive unchanged at the workers and the training process."""

import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
import torch.multiprocessing  # tells ForkingPickler how tensors travel

from noether.data.samplers import TaggedBatch

SMALL, LARGE = 64 * 1024, 64 * 1024 + 1  # numbers of four bytes: 256 KiB, and a bit more


def sent(batch: Any) -> bytes:
    written = io.BytesIO()
    ForkingPickler(written).dump(TaggedBatch(3, 5, batch))
    return written.getvalue()


@pytest.mark.parametrize(
    "held",
    [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([[True, False]]),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, 1).expand(2, 4),
        torch.empty(0, 3),
        torch.tensor(7),
        torch.ones(LARGE),
    ],
    ids=["floats", "transposed", "booleans", "conjugated", "bfloat16", "expanded", "empty", "scalar", "large"],
)
def test_tensors_arrive_bit_for_bit_and_can_be_written_to(held: torch.Tensor) -> None:
    tag, position, batch = pickle.loads(sent({"x": held}))
    assert (tag, position) == (3, 5)
    assert batch["x"].dtype is held.dtype
    assert torch.equal(batch["x"], held)
    batch["x"].zero_()


def test_values_that_are_not_tensors_arrive() -> None:
    batch = {
        "names": ["a", "b"],
        "label": 3,
        "nested": {"x": torch.ones(2)},
        "parameter": torch.nn.Parameter(torch.ones(1)),
    }
    _, _, received = pickle.loads(sent(batch))
    assert received["names"] == ["a", "b"]
    assert torch.equal(received["nested"]["x"], torch.ones(2))
    assert isinstance(received["parameter"], torch.nn.Parameter)
    assert pickle.loads(sent([1, 2])).batch == [1, 2]


def test_small_tensors_go_through_the_pipe_and_large_ones_through_shared_memory() -> None:
    assert len(sent({"x": torch.ones(SMALL)})) > 4 * SMALL
    assert len(sent({"x": torch.ones(LARGE)})) < 2000
