"""Transforms in the path of the data: once, by batch or by sample, always with the same result."""

from typing import Any

import pytest
import torch

from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.fetch import fetch_of
from noether.data.transforms.base import Transform
from noether.data.views import BatchTransformedDataset, TransformedDataset, transformed


class Add(Transform):
    deterministic = True

    def __init__(self, amount: float, batched: bool = True) -> None:
        super().__init__()
        self.amount = amount
        self.batched = batched
        self.calls = 0

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        return sample | {"x": sample["x"] * 2 + self.amount}


class Noise(Transform):
    batched = True  # counts for deterministic transforms only

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"x": sample["x"] + torch.rand(())}


class Streamed(Dataset):
    deterministic = True

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor([float(index)])}


class Gathered(Streamed):
    def __getitems__(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": indices.to(torch.float32)[:, None]}


def in_memory() -> InMemoryDataset:
    return InMemoryDataset({"x": torch.arange(6.0)[:, None]})


@pytest.mark.parametrize("dataset", [in_memory(), Gathered(), Streamed()])
def test_every_way_gives_the_same_batch(dataset: Dataset) -> None:
    seen = transformed(dataset, [Add(1), Add(5, batched=False), Add(3)])
    batch = fetch_of(seen, seed=0)(torch.tensor([4, 0]), 0)
    assert batch["x"].tolist() == [[((4 * 2 + 1) * 2 + 5) * 2 + 3], [((0 * 2 + 1) * 2 + 5) * 2 + 3]]


def test_data_in_memory_is_transformed_once() -> None:
    add = Add(1)
    seen = transformed(in_memory(), [add])
    for _ in range(3):
        fetch_of(seen, seed=0)(torch.tensor([1, 2]), 0)
    assert isinstance(seen, InMemoryDataset)
    assert add.calls == 1


def test_batched_transforms_of_a_gathering_data_set_see_whole_batches() -> None:
    add = Add(1)
    seen = transformed(Gathered(), [add])
    fetch_of(seen, seed=0)(torch.arange(5), 0)
    assert isinstance(seen, BatchTransformedDataset)
    assert add.calls == 1


def test_random_transforms_draw_for_each_sample() -> None:
    seen = transformed(in_memory(), [Noise()])
    fetch = fetch_of(seen, seed=0)
    noise = fetch(torch.arange(6), 2)["x"] - torch.arange(6.0)[:, None]
    assert isinstance(seen, TransformedDataset)
    assert not seen.deterministic
    assert len(noise.unique()) == 6
    assert torch.equal(fetch(torch.tensor([3]), 2)["x"], fetch(torch.arange(6), 2)["x"][3:4])


def test_the_data_set_itself_stays_as_it_is() -> None:
    dataset = in_memory()
    transformed(dataset, [Add(1)])
    assert dataset[3]["x"].item() == 3
    assert transformed(dataset, []) is dataset
