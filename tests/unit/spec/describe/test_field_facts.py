from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from noether.config.discriminated import Discriminated
from noether.spec.explain import bounds_of, default_of, example_of, type_of, unit_of


class Inner(BaseModel):
    pass


class Sample(BaseModel):
    max_epochs: int | None = Field(None, ge=0)
    share: float = Field(0.5, gt=0, lt=1)
    flag: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    names: list[str] = []
    sizes: dict[str, int | list[int]] | None = Field(None, examples=[{"x": 3}])
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = Field(default_factory=Inner)
    model: Annotated[Any, Discriminated("model")]
    callbacks: list[Annotated[Any, Discriminated("callback")]] | None = None
    wait: int = Field(10, json_schema_extra={"unit": "minutes"})
    note_epochs: str = ""


FIELDS = Sample.model_fields


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("max_epochs", "integer"),
        ("precision", '"fp32" or "bf16"'),
        ("names", "list of string"),
        ("sizes", "table of integer or list of integer"),
        ("pair", "list of 2 number"),
        ("inner", "table"),
        ("model", "a model"),
        ("callbacks", "list of a callback"),
    ],
)
def test_types_are_in_the_words_of_toml(name, words):
    assert type_of(FIELDS[name]) == words


def test_bounds_are_reported():
    assert bounds_of(FIELDS["max_epochs"]) == "at least 0"
    assert bounds_of(FIELDS["share"]) == "greater than 0 and below 1"
    assert bounds_of(FIELDS["flag"]) == ""


@pytest.mark.parametrize(
    ("name", "default"), [("model", "required"), ("max_epochs", "unset"), ("pair", "[0.0, 1.0]"), ("inner", "{}")]
)
def test_defaults_are_toml(name, default):
    assert default_of(FIELDS[name]) == default


def test_a_unit_is_said_or_stands_in_the_name():
    assert unit_of("wait", FIELDS["wait"]) == "minutes"
    assert unit_of("max_epochs", FIELDS["max_epochs"]) == "epochs"
    assert unit_of("flag", FIELDS["flag"]) is None


def test_text_has_no_unit_whatever_its_name():
    assert unit_of("note_epochs", FIELDS["note_epochs"]) is None


@pytest.mark.parametrize(
    ("name", "example"),
    [("sizes", "{ x = 3 }"), ("flag", "true"), ("precision", '"bf16"'), ("share", "0.5"), ("max_epochs", None)],
)
def test_an_example_is_given_or_follows_from_the_type(name, example):
    assert example_of(FIELDS[name]) == example
