import collections
import dataclasses
import enum
import math
import numbers
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, TypeVar, get_args

import numpy as np
import pytest
from annotated_types import Gt
from pydantic import Field, TypeAdapter
from torch import Tensor

from noether.config.parameters import NotRepresentable, option_type, representable, survives

Bounded = TypeVar("Bounded", bound=int)
Chosen = TypeVar("Chosen", int, str)


@dataclasses.dataclass
class Leaf:
    size: "int" = 1


class Colour(enum.Enum):
    RED = (255, 0, 0)


class Partial(typing.TypedDict, total=False):
    a: "typing.Required[int]"
    b: "list[Leaf]"


def here() -> None:
    """A function whose module names the types of forward references."""


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("int", int),
        ("list['Leaf']", list[Leaf]),
        (Iterable["Leaf"], list[Leaf]),
        (Mapping[int, "float | Tensor"], dict[int, float]),
        (NewType("Width", int), int),
        (Bounded, int),
        (Chosen, int | str),
        (numbers.Real, float),
        (np.float64, float),
        (np.int64, int),
        (os.PathLike[str] | str, Path),
        (str | Path | None, Path | None),
        (collections.OrderedDict[str, int], collections.OrderedDict[str, int]),
        (object, Any),
        (Annotated["int | Tensor", Gt(0)], Annotated[int, Gt(0)]),
    ],
    ids=str,
)
def test_an_annotation_is_reduced_to_what_toml_has(annotation: Any, expected: Any):
    assert option_type(annotation, here) == expected


@pytest.mark.parametrize(
    "annotation",
    [
        Tensor,
        Tensor | None,
        Callable[[int], int],
        type[int],
        complex,
        range,
        Colour,
        Literal[b"a"],
        dict[tuple[int, int], int],
        list[Tensor],
        "Nowhere",
        "list[Nowhere]",
        "1 +",
    ],
    ids=str,
)
def test_an_annotation_without_a_form_in_toml_has_a_reason(annotation: Any):
    with pytest.raises(NotRepresentable) as caught:
        option_type(annotation, here)
    assert "its annotation " in str(caught.value)


def test_a_field_of_a_dataclass_that_toml_cannot_express_is_the_reason():
    @dataclasses.dataclass
    class WithTensor:
        weight: Tensor

    with pytest.raises(NotRepresentable) as caught:
        option_type(WithTensor, here)
    assert "Tensor" in str(caught.value)


def test_a_typed_dict_keeps_its_required_keys_whatever_its_module_imports():
    taken = TypeAdapter(option_type(Partial, here))
    assert taken.validate_json('{"a": 1, "b": [{"size": 2}]}', strict=True) == {"a": 1, "b": [Leaf(2)]}
    assert taken.validate_json('{"a": 1}', strict=True) == {"a": 1}
    with pytest.raises(ValueError):
        taken.validate_json("{}", strict=True)


def test_a_set_is_written_in_one_order():
    names = TypeAdapter(representable(set[str | int]))
    assert names.dump_python({"b", 2, "a", 1}, mode="json") == [1, 2, "a", "b"]
    assert get_args(representable(set[str]))[0] == set[str]


@pytest.mark.parametrize(
    ("annotation", "default", "kept"),
    [
        (float, 1.5, True),
        (float, math.inf, True),
        (float, math.nan, False),
        (list[float], (math.nan,), False),
        (dict[str, float], {"a": math.nan}, False),
        (tuple[int, ...], (1, 2), True),
        (Any, (1, 2), False),
        (Any, [1, {"a": "b"}], True),
        (Any, Path("a"), False),
        (list[Any], [None], False),
        (int, "three", False),
        (Annotated[int, Field(ge=0)], -1, False),
        (timedelta, timedelta(days=1), True),
        (Leaf, Leaf(3), True),
        (frozenset[int], frozenset({1}), True),
        (Any, Tensor, False),
    ],
    ids=str,
)
def test_a_default_survives_if_it_comes_back_from_toml_as_it_was(annotation: Any, default: Any, kept: bool):
    assert survives(annotation, default) is kept
