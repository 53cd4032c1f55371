"""Data sets in memory, and the methods that a data set must define."""

import pytest
import torch

from noether.data.dataset import Dataset, InMemoryDataset, length_of
from noether.errors import DataError


@pytest.fixture
def dataset() -> InMemoryDataset:
    return InMemoryDataset({"x": torch.arange(12.0).view(4, 3), "y": torch.arange(4)})


def test_a_sample_has_no_batch_dimension(dataset: InMemoryDataset) -> None:
    assert dataset[1]["x"].tolist() == [3, 4, 5]
    assert dataset[1]["y"].shape == ()


@pytest.mark.parametrize("indices", [[2, 0, 2], torch.tensor([2, 0, 2])])
def test_a_gathered_batch_holds_the_samples_asked_for(dataset: InMemoryDataset, indices: list[int]) -> None:
    batch = dataset.__getitems__(indices)
    assert batch["x"].tolist() == [[6, 7, 8], [0, 1, 2], [6, 7, 8]]
    assert batch["y"].tolist() == [2, 0, 2]


def test_properties_of_different_length_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        InMemoryDataset({"x": torch.ones(4), "y": torch.ones(3)})
    assert "'x'" in str(caught.value)
    assert "4" in str(caught.value)
    assert "'y'" in str(caught.value)
    assert "3" in str(caught.value)


@pytest.mark.parametrize("properties", [{}, {"x": torch.tensor(1.0)}])
def test_a_data_set_without_samples_to_count_is_refused(properties: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError):
        InMemoryDataset(properties)


def test_a_data_set_without_a_length_is_named() -> None:
    class Endless(Dataset):
        pass

    class Foreign(torch.utils.data.Dataset[int]):
        pass

    for dataset in (Endless(), Foreign()):
        with pytest.raises(DataError) as caught:
            length_of(dataset)
        assert type(dataset).__name__ in str(caught.value)
