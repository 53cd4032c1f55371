"""Samples become batches, or an error that names the property."""

import numpy as np
import pytest
import torch

from noether.data.fetch import collate
from noether.errors import DataError


def test_samples_are_stacked_property_by_property() -> None:
    batch = collate([{"x": torch.tensor([1.0, 2.0]), "n": 3}, {"x": torch.tensor([4.0, 5.0]), "n": 6}])
    assert batch["x"].tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert batch["n"].tolist() == [3, 6]
    assert batch["n"].dtype == torch.int64


def test_numpy_arrays_become_tensors() -> None:
    batch = collate([{"x": np.ones(3, dtype=np.float32)}, {"x": np.zeros(3, dtype=np.float32)}])
    assert batch["x"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert batch["x"].dtype == torch.float32


def test_different_shapes_name_the_property_and_the_shapes() -> None:
    with pytest.raises(DataError) as caught:
        collate([{"y": torch.ones(1), "points": torch.ones(n, 3)} for n in (4, 2)])
    assert "'points'" in str(caught.value)
    assert "2" in str(caught.value)
    assert "3" in str(caught.value)
    assert "4" in str(caught.value)


def test_a_sample_without_a_property_of_the_others_is_named() -> None:
    with pytest.raises(DataError) as caught:
        collate([{"x": torch.ones(1), "y": torch.ones(1)}, {"x": torch.ones(1)}])
    assert "'y'" in str(caught.value)


def test_text_is_refused_as_property() -> None:
    with pytest.raises(DataError) as caught:
        collate([{"name": "a"}, {"name": "b"}])
    assert "'name'" in str(caught.value)


def test_a_tuple_is_not_a_sample() -> None:
    with pytest.raises(DataError) as caught:
        collate([(torch.ones(1), 3)])  # type: ignore[list-item]  # the mistake under test
    assert "tuple" in str(caught.value)
