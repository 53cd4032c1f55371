"""Transforms in the path of the data: once, by batch or by sample, always with the same result."""

from typing import Any

import pytest
import torch

from noether.data.container import DataContainer
from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.fetch import fetch_of
from noether.data.transforms import Transform
from noether.data.views import BatchTransformedDataset, PreparedDatasets, TransformedDataset, transformed
from noether.errors import DataError


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


# Whole batches against samples


class Centred(Add):
    """Subtracts the mean over what it is given: over the batch, if that is a batch."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"x": sample["x"] - sample["x"].mean()}


class InPlace(Add):
    """Changes the tensor that it is given."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        sample["x"] += self.amount
        return sample


class Reversed(Gathered):
    """Gathers the samples in another order."""

    def __getitems__(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().__getitems__(indices.sort().values)


class Doubled(InMemoryDataset):
    """Changes the samples of a data set that gathers batches."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: 2 * tensor for name, tensor in super().__getitem__(index).items()}


@pytest.mark.parametrize(
    ("dataset", "transforms"),
    [(in_memory(), [Centred(0)]), (Gathered(), [Add(1), Centred(0)]), (in_memory(), [InPlace(1)]), (Reversed(), [])],
)
def test_batches_that_differ_from_their_samples_are_refused(dataset: Dataset, transforms: list[Transform]) -> None:
    with pytest.raises(DataError) as caught:
        PreparedDatasets({"train": dataset}, transforms).get("train")
    assert "'x'" in caught.value.message


@pytest.mark.parametrize("dataset", [in_memory(), Gathered(), Streamed()])
def test_batches_that_hold_their_samples_are_used(dataset: Dataset) -> None:
    prepared = PreparedDatasets({"train": dataset}, [Add(1), Add(3)]).get("train")
    assert fetch_of(prepared, seed=0)(torch.tensor([1]), 0)["x"].tolist() == [[(1 * 2 + 1) * 2 + 3]]


@pytest.mark.parametrize("max_size", [None, 2])
def test_a_subclass_that_overrides_its_samples_is_read_sample_by_sample(max_size: int | None) -> None:
    data = DataContainer({"train": Doubled({"x": torch.arange(6.0)[:, None]})}, transforms=[Add(1)])
    batch = fetch_of(data.get_dataset("train", properties=["x"], max_size=max_size), seed=0)(torch.tensor([1]), 0)
    assert batch["x"].tolist() == [[(1 * 2) * 2 + 1]]


def test_a_transform_that_changes_its_sample_does_not_reach_the_data() -> None:
    dataset = in_memory()
    seen = transformed(dataset, [InPlace(1, batched=False)])
    batches = [fetch_of(seen, seed=0)(torch.tensor([2]), epoch)["x"].item() for epoch in range(3)]
    assert batches == [3, 3, 3]
