"""Samples of the same and of different sizes become batches, or an error that names the property and the way out."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noether.data.collators import concat, pad, stack
from noether.errors import DataError


def cloud(points: int, **others: Any) -> dict[str, Any]:
    """Return a sample with so many points, numbered from 1, and a target for each."""
    x = torch.arange(1.0, points + 1).unsqueeze(1).expand(points, 2)
    return {"x": x.clone(), "y_target": x[:, :1].clone(), **others}


def message_of(collator: Callable[..., Any], samples: Sequence[Any], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        collator(samples, **options)
    return str(caught.value)


# stack


def test_samples_are_stacked_property_by_property() -> None:
    batch = stack([{"x": torch.tensor([1.0, 2.0]), "n": 3}, {"x": torch.tensor([4.0, 5.0]), "n": 6}])
    assert batch["x"].tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert batch["n"].tolist() == [3, 6]
    assert batch["n"].dtype == torch.int64


def test_numpy_arrays_become_tensors() -> None:
    batch = stack([{"x": np.ones(3, dtype=np.float32)}, {"x": np.zeros(3, dtype=np.float32)}])
    assert batch["x"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert batch["x"].dtype == torch.float32


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("wing-1", "wing-2"),
        (b"1", b"2"),
        (None, None),
        (date(2020, 1, 1), date(2020, 1, 2)),
        (np.str_("a"), np.str_("b")),
        (np.array(["a", "b"]), np.array(["c"])),
        (["a"], ["b", "c"]),
        (("a", 1), ("b", 2)),
    ],
)
def test_texts_and_other_values_are_kept_as_a_list(one: Any, other: Any) -> None:
    batch = stack([{"x": torch.ones(1), "id": one}, {"x": torch.ones(1), "id": other}])
    assert type(batch["id"]) is list
    assert batch["id"][0] is one
    assert batch["id"][1] is other


def test_dicts_are_stacked_entry_by_entry() -> None:
    samples = [{"mesh": {"size": n, "name": str(n), "box": {"low": torch.zeros(3)}}} for n in (1, 2)]
    mesh = stack(samples)["mesh"]
    assert mesh["size"].tolist() == [1, 2]
    assert mesh["name"] == ["1", "2"]
    assert mesh["box"]["low"].shape == (2, 3)


@pytest.mark.parametrize(
    "values", [(torch.ones(2), "two"), (None, torch.ones(2)), (1.0, None), ((torch.ones(2), 1), (torch.ones(2), 2))]
)
def test_numbers_beside_other_values_are_an_error_that_names_the_property(values: tuple[Any, Any]) -> None:
    assert "'x'" in message_of(stack, [{"x": value} for value in values])


def test_an_array_of_objects_is_an_error_that_names_the_property() -> None:
    assert "'x'" in message_of(stack, [{"x": np.array([{}, None], dtype=object)}] * 2)


@pytest.mark.parametrize(
    "values", [(torch.ones(4, 3), torch.ones(2, 3)), (np.ones(4), np.ones(2)), ([1.0], [1.0, 2.0])]
)
def test_different_shapes_name_the_property_the_shapes_and_the_option_to_type(values: tuple[Any, Any]) -> None:
    message = message_of(stack, [{"y": torch.ones(1), "points": value} for value in values])
    assert "'points'" in message
    assert all(str(tuple(np.shape(value))) in message for value in values)
    assert 'collate = "pad"' in message
    assert 'collate = "concat"' in message


@pytest.mark.parametrize("place", [0, 1])
def test_a_property_that_one_sample_lacks_is_named(place: int) -> None:
    samples = [{"x": torch.ones(1), "y": torch.ones(1)}, {"x": torch.ones(1), "y": torch.ones(1)}]
    del samples[place]["y"]
    assert "'y'" in message_of(stack, samples)


def test_a_tuple_is_not_a_sample() -> None:
    assert "tuple" in message_of(stack, [(torch.ones(1), 3)])


# pad


def test_padding_marks_the_points_of_each_sample() -> None:
    batch = pad([cloud(3, id="a", speed=1.0), cloud(1, id="b", speed=2.0)])
    assert batch["x"][..., 0].tolist() == [[1, 2, 3], [1, 0, 0]]
    assert batch["y_target"].shape == (2, 3, 1)
    assert batch["mask"].tolist() == [[True, True, True], [True, False, False]]
    assert batch["mask"].dtype == torch.bool
    assert (batch["id"], batch["speed"].tolist()) == (["a", "b"], [1.0, 2.0])


def test_samples_of_one_size_have_a_mask_too() -> None:
    for samples in ([cloud(2)], [cloud(2), cloud(2)]):
        assert pad(samples)["mask"].tolist() == [[True, True]] * len(samples)


def test_a_vector_of_one_length_is_stacked_beside_points() -> None:
    for samples in ([cloud(5, inflow=torch.ones(3))], [cloud(5, inflow=torch.ones(3)), cloud(4, inflow=torch.ones(3))]):
        batch = pad(samples)
        assert batch["inflow"].shape == (len(samples), 3)
        assert batch["mask"].shape == (len(samples), 5)


def test_named_properties_are_padded_even_if_another_one_is_longer() -> None:
    batch = pad([cloud(2, image=torch.ones(8, 8))], properties=["x", "y_target"])
    assert batch["mask"].tolist() == [[True, True]]
    assert batch["image"].shape == (1, 8, 8)


def test_the_number_to_pad_with_can_be_chosen() -> None:
    batch = pad([{"token": torch.tensor([1, 2])}, {"token": torch.tensor([3])}], value=-100)
    assert batch["token"].tolist() == [[1, 2], [3, -100]]
    assert batch["token"].dtype == torch.int64


def test_a_sample_without_points_is_masked_as_a_whole() -> None:
    assert pad([cloud(0), cloud(2)])["mask"].tolist() == [[False, False], [True, True]]


# concat


def test_points_are_concatenated_with_the_place_of_their_sample() -> None:
    batch = concat(
        [cloud(3, id="a", y=torch.ones(1)), cloud(1, id="b", y=torch.ones(1)), cloud(2, id="c", y=torch.ones(1))]
    )
    assert batch["x"][:, 0].tolist() == [1, 2, 3, 1, 1, 2]
    assert batch["batch_index"].tolist() == [0, 0, 0, 1, 2, 2]
    assert batch["batch_index"].dtype == torch.int64
    assert batch["y"].shape == (3, 1)
    assert batch["id"] == ["a", "b", "c"]


# Errors of both


@pytest.mark.parametrize(("collator", "added"), [(pad, "mask"), (concat, "batch_index")])
def test_a_property_with_the_name_of_the_added_one_is_an_error(collator: Callable[..., Any], added: str) -> None:
    assert f"'{added}'" in message_of(collator, [cloud(2, **{added: torch.ones(2)})])


@pytest.mark.parametrize("collator", [pad, concat])
def test_two_numbers_of_points_in_one_sample_are_an_error_with_the_option_to_type(collator: Callable[..., Any]) -> None:
    samples = [cloud(2, surface=torch.ones(4, 3)), cloud(3, surface=torch.ones(5, 3))]
    message = message_of(collator, samples)
    assert "surface: 4, 5" in message
    assert f'kind = "{collator.__name__}"' in message
    with pytest.raises(DataError):
        collator(samples, properties=["x", "surface"])


@pytest.mark.parametrize("collator", [pad, concat])
def test_samples_without_points_are_an_error(collator: Callable[..., Any]) -> None:
    assert "speed" in message_of(collator, [{"speed": 1.0}, {"speed": 2.0}])


@pytest.mark.parametrize("collator", [pad, concat])
@pytest.mark.parametrize("other", [torch.ones(3, 4), torch.ones(3, 2, dtype=torch.float64)])
def test_points_of_another_shape_or_type_are_named_not_cast(collator: Callable[..., Any], other: Tensor) -> None:
    assert "'x'" in message_of(collator, [{"x": torch.ones(2, 2)}, {"x": other}])


@pytest.mark.parametrize("form", [lambda value: value, lambda value: [value], lambda value: (0.0, value)])
def test_python_numbers_that_float32_cannot_tell_apart_are_refused(form: Any) -> None:
    far = [{"y": form(1e9 + step)} for step in range(4)]
    with pytest.raises(DataError, match="lost in float32"):
        stack(far)
    assert torch.equal(stack(far[:1])["y"], torch.tensor([form(1e9)]))
    near = stack([{"y": form(1.0 + step)} for step in range(4)])["y"]
    assert near.dtype is torch.float32
