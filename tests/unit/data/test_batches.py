"""Batches of any type: moved to a device, and read by property."""

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from noether.data.collators import first_of, moved, properties_of, selected
from noether.errors import TrainingError

META = torch.device("meta")


class Pair(NamedTuple):
    x: Tensor
    name: list[str]


@dataclass(frozen=True)
class Fields:
    x: Tensor
    name: list[str]


class Graphs:
    """Moves itself, in place or not, and names its parts as graph packages do."""

    def __init__(self, returns: bool) -> None:
        self.x = torch.ones(2, 3)
        self.returns = returns
        self.device: Any = None

    def keys(self) -> list[str]:
        return ["x"]

    def to(self, device: torch.device) -> Any:
        self.device = device
        return self if self.returns else None


def test_tensors_are_moved_wherever_they_are_and_other_values_stay() -> None:
    x, names = torch.ones(2, 3), ["a", "b"]
    batch = {"x": x, "names": names, "deep": {"x": [x, (x, None)]}, "pair": Pair(x, names), "fields": Fields(x, names)}
    result = moved(batch, META)
    deep = result["deep"]["x"]
    for tensor in (result["x"], deep[0], deep[1][0], result["pair"].x, result["fields"].x):
        assert tensor.device == META
    assert (result["names"], deep[1][1]) == (names, None)
    assert (type(result["pair"]), type(result["fields"])) == (Pair, Fields)
    assert batch["fields"].x.device.type == "cpu"  # type: ignore[attr-defined]  # the batch itself is left alone


@pytest.mark.parametrize("returns", [True, False])
def test_an_object_with_a_method_to_moves_itself(returns: bool) -> None:
    graphs = Graphs(returns)
    assert moved({"graphs": graphs}, META)["graphs"] is graphs
    assert graphs.device == META


@pytest.mark.parametrize(
    "batch",
    [
        {"x": torch.ones(2, 3), "name": ["a", "b"]},
        UserDict({"x": torch.ones(2, 3), "name": ["a", "b"]}),
        Pair(torch.ones(2, 3), ["a", "b"]),
        Fields(torch.ones(2, 3), ["a", "b"]),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_properties_are_entries_fields_or_attributes(batch: Any) -> None:
    assert list(properties_of(batch)) == ["x", "name"]
    assert selected(batch, ["x"])["x"].shape == (2, 3)
    assert first_of(batch)["x"].shape == (3,)
    assert first_of(batch)["name"] == "a"
    assert moved(batch, META) is not batch


def test_a_property_that_a_batch_lacks_is_named_with_those_that_it_has() -> None:
    with pytest.raises(TrainingError) as caught:
        selected(Graphs(returns=True), ["x", "edge_index"])
    assert "found x, expected 'edge_index'" in str(caught.value)


def test_the_first_sample_of_nested_values_and_scalars() -> None:
    first = first_of({"mesh": {"x": torch.ones(2, 3)}, "scale": torch.tensor(2.0), "none": [], "n": 3})
    assert first["mesh"]["x"].shape == (3,)
    assert (first["scale"].item(), first["none"], first["n"]) == (2.0, [], 3)
