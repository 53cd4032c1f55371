"""Renaming and selecting weights, and errors about files that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from noether.core.initializers import CheckpointInitializer, CheckpointInitializerConfig
from noether.core.initializers.weights import renamed
from noether.core.models.build import AdaptedModule
from noether.errors import CheckpointError, SpecError

PARTS = st.lists(st.sampled_from(["encoder", "backbone", "0", "weight", "encoders"]), min_size=1, max_size=4)
NAMES = st.sets(PARTS.map(".".join), min_size=1, max_size=6)


def tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.full((2,), float(number)) for number, name in enumerate(names, start=1)}


@pytest.mark.parametrize(
    ("rename", "expected"),
    [
        ({"backbone": "encoder"}, ["encoder.0.weight", "backbones.weight", "head"]),
        ({"backbone.0": "stem"}, ["stem.weight", "backbones.weight", "head"]),
        ({"backbone": ""}, ["0.weight", "backbones.weight", "head"]),
        ({"": "net"}, ["net.backbone.0.weight", "net.backbones.weight", "net.head"]),
        ({"": "net", "backbone": "encoder"}, ["encoder.0.weight", "net.backbones.weight", "net.head"]),
        ({"head": "tail.bias"}, ["backbone.0.weight", "backbones.weight", "tail.bias"]),
        ({"head": "backbones", "backbones": "head"}, ["backbone.0.weight", "head.weight", "backbones"]),
    ],
)
def test_a_beginning_of_whole_parts_is_replaced_once(rename: dict[str, str], expected: list[str]) -> None:
    assert list(renamed(tensors("backbone.0.weight", "backbones.weight", "head"), rename)) == expected


@given(NAMES)
def test_adding_a_part_and_taking_it_away_again_changes_nothing(names: set[str]) -> None:
    given_tensors = tensors(*names)
    there = renamed(given_tensors, {"": "outer"})
    assert renamed(there, {"outer": ""}) == given_tensors


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError) as error:
        renamed(tensors("a.x", "b.x"), {"b": "a"})
    assert "'a.x'" in error.value.message


def test_a_key_without_a_metric_is_reported_with_the_existing_ones() -> None:
    with pytest.raises(CheckpointError) as error:
        renamed(tensors("backbone.weight"), {"bakbone": "encoder"})
    assert "'bakbone'" in error.value.message
    assert "backbone.weight" in str(error.value.hint)


# Loading into a model


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(x))
        return output


def load(path: Path, **settings: Any) -> AdaptedModule:
    model = AdaptedModule(Net())
    config = CheckpointInitializerConfig(kind="checkpoint", path=str(path), **settings)
    CheckpointInitializer(config).initialize(SimpleNamespace(), model)
    return model


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """An encoder under another name, and a head of another size."""
    weights = {
        "backbone.weight": torch.ones(3, 2),
        "backbone.bias": torch.ones(3),
        "head.weight": torch.ones(5, 3),
        "norm.scale": torch.ones(3),
    }
    save_file(weights, tmp_path / "pretrained.safetensors")
    return tmp_path / "pretrained.safetensors"


def test_partial_loading_with_renaming_reports_exactly_what_matched(
    pretrained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="noether"):
        model = load(pretrained, rename={"backbone": "encoder"}, strict=False)
    state = model.state_dict()
    assert torch.equal(state["encoder.weight"], torch.ones(3, 2))
    assert torch.equal(state["encoder.bias"], torch.ones(3))
    assert not torch.equal(state["head.weight"], torch.ones(2, 3))
    assert caplog.messages == [
        f"2 of 4 tensors loaded from {pretrained}; not in the checkpoint: head.bias; not in the model: norm.scale; "
        "other shape: head.weight (5, 3) instead of (2, 3)"
    ]


def test_strict_loading_lists_everything_that_does_not_fit_and_changes_nothing(pretrained: Path) -> None:
    torch.manual_seed(0)
    expected = AdaptedModule(Net()).state_dict()
    torch.manual_seed(0)
    with pytest.raises(CheckpointError) as error:
        load(pretrained, rename={"backbone": "encoder"})
    assert all(fact in error.value.message for fact in ("2 of 4", "head.bias", "norm.scale", "head.weight (5, 3)"))
    torch.manual_seed(0)
    assert torch.equal(AdaptedModule(Net()).state_dict()["encoder.weight"], expected["encoder.weight"])


def test_strict_loading_of_a_selection_leaves_the_rest_alone(
    pretrained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="noether"):
        load(pretrained, rename={"backbone": "encoder"}, include=["encoder.*"])
        load(pretrained, rename={"backbone": "encoder"}, exclude=["head.*", "norm.*"])
    assert caplog.messages == [f"2 of 2 tensors loaded from {pretrained}"] * 2


@pytest.mark.parametrize("setting", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_reported(setting: str, pretrained: Path) -> None:
    with pytest.raises(SpecError) as error:
        load(pretrained, strict=False, **{setting: ["decoder.*"]})
    assert f"initializer.{setting}" in error.value.message
    assert "'decoder.*'" in error.value.message


def test_a_file_of_which_nothing_fits_is_an_error_though_not_strict(pretrained: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        load(pretrained, strict=False, include=["encoder.*"])
    assert "0 of 2" in error.value.message
