"""A part of a data set: its first samples, some of its properties."""

import pytest
import torch

from noether.data.dataset import AnyDataset, Dataset, InMemoryDataset, length_of
from noether.data.fetch import fetch_of, first_sample
from noether.data.views import subset
from noether.errors import DataError


class Streamed(Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(index), "y": torch.rand(())}


class Gathered(Streamed):
    deterministic = True

    def __getitems__(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": indices, "y": -indices}


def all_kinds() -> list[AnyDataset]:
    return [InMemoryDataset({"x": torch.arange(5), "y": torch.rand(5)}), Streamed(), Gathered()]


@pytest.mark.parametrize("dataset", all_kinds())
def test_first_samples_with_the_properties_asked_for(dataset: AnyDataset) -> None:
    part = subset(dataset, properties={"x"}, max_size=3)
    assert length_of(part) == 3
    assert {name: value.tolist() for name, value in fetch_of(part, 0)(torch.arange(3), 0).items()} == {"x": [0, 1, 2]}
    assert {name: value.tolist() for name, value in part[2].items()} == {"x": 2}


@pytest.mark.parametrize("dataset", all_kinds())
def test_nothing_asked_for_gives_the_data_set_itself(dataset: AnyDataset) -> None:
    assert subset(dataset) is dataset
    assert subset(dataset, max_size=99) is dataset


@pytest.mark.parametrize("dataset", all_kinds())
def test_an_unknown_property_is_named(dataset: AnyDataset) -> None:
    with pytest.raises(DataError) as caught:
        subset(dataset, properties=["X"])
    assert "'X'" in str(caught.value)
    assert "'x'" in str(caught.value)


class Changing(Streamed):
    """A data set whose later samples lack a property of the first one."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(index)
        return sample if index == 0 else {"x": sample["x"]}


def test_a_property_that_a_later_sample_lacks_is_named_with_those_that_exist() -> None:
    part = subset(Changing(), properties=["y"])
    with pytest.raises(DataError) as caught:
        fetch_of(part, 0)(torch.arange(2), 0)
    for name in ("'y'", "'Changing'", "x"):
        assert name in caught.value.message


def test_a_property_that_a_gathered_batch_lacks_is_named() -> None:
    class Partial(Gathered):
        def __getitems__(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": indices} if len(indices) > 1 else super().__getitems__(indices)

    with pytest.raises(DataError) as caught:
        fetch_of(subset(Partial(), properties=["y"]), 0)(torch.arange(2), 0)
    assert "'y'" in caught.value.message


def test_a_part_keeps_the_order_of_properties() -> None:
    dataset = InMemoryDataset({name: torch.ones(2) for name in "dbca"})
    assert list(subset(dataset, properties={"a", "b", "c"})[0]) == ["b", "c", "a"]


def test_first_look_does_not_move_the_generators() -> None:
    before = torch.get_rng_state()
    assert torch.equal(first_sample(Streamed())["y"], first_sample(Streamed())["y"])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_data_set_has_no_first_sample() -> None:
    with pytest.raises(DataError) as caught:
        first_sample(InMemoryDataset({"x": torch.empty(0)}))
    assert "InMemoryDataset" in str(caught.value)
