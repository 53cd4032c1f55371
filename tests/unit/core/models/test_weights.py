"""Tensors of a checkpoint that fit a model, and the report about the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noether.core.models.build import AdaptedModule
from noether.core.models.weights import match_weights
from noether.errors import CheckpointError


class Tied(nn.Module):
    """Has one matrix under two names, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3, bias=False)
        self.head = nn.Linear(2, 3)
        self.head.weight = self.embed.weight
        self.register_buffer("count", torch.zeros(1))


def other(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, 7.0) for name, tensor in model.state_dict().items()}


def test_everything_of_an_equal_model_fits() -> None:
    model = Tied()
    tensors = other(model)
    match = match_weights(model, tensors)
    match.load_into(model)
    assert match.is_complete
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert match.report("file") == "4 of 4 tensors loaded from file"


def test_parameters_stay_the_objects_that_an_optimizer_knows_and_tied_ones_stay_tied() -> None:
    model = Tied()
    before = list(model.parameters())
    match_weights(model, other(model)).load_into(model)
    assert all(one is another for one, another in zip(model.parameters(), before, strict=True))
    assert model.head.weight is model.embed.weight


def test_a_tied_name_is_not_missing_where_its_twin_is_there() -> None:
    model = Tied()
    tensors = other(model)
    del tensors["head.weight"]
    match = match_weights(model, tensors)
    match.load_into(model)
    assert match.is_complete
    assert match.report("file").startswith("4 of 4")
    assert float(model.head.weight.detach()[0, 0]) == 7.0


def test_what_does_not_fit_is_reported_and_left_alone() -> None:
    model = Tied()
    tensors = other(model)
    del tensors["count"]
    tensors |= {"head.bias": torch.ones(5), "norm.scale": torch.ones(1)}
    bias = model.head.bias.clone()
    match = match_weights(model, tensors)
    match.load_into(model)
    assert match.report("file") == (
        "2 of 4 tensors loaded from file; not in the checkpoint: count; not in the model: norm.scale; "
        "other shape: head.bias (5,) instead of (3,)"
    )
    assert torch.equal(model.head.bias, bias)
    with pytest.raises(CheckpointError) as error:
        match.require_complete("file", hint="")
    assert match.report("file") in error.value.message


def test_what_is_not_wanted_is_left_alone_on_both_sides() -> None:
    model = Tied()
    tensors = {**other(model), "old.weight": torch.ones(1)}
    match = match_weights(model, tensors, lambda name: name.startswith("head."))
    assert match.is_complete
    assert set(match.fitting) == {"head.weight", "head.bias"}
    assert match.wanted == 2


def test_a_long_list_is_cut_and_counted() -> None:
    report = match_weights(nn.Linear(1, 1), {f"layer{n}": torch.ones(1) for n in range(40)}).report("file")
    assert report.endswith("layer11 and 28 more")


def test_a_wrapped_module_is_loaded_by_its_own_names() -> None:
    model = AdaptedModule(nn.Linear(2, 3))
    match = match_weights(model, {"weight": torch.ones(3, 2), "bias": torch.zeros(3)})
    match.load_into(model)
    assert match.is_complete
    assert torch.equal(model.module.weight, torch.ones(3, 2))  # type: ignore[arg-type]  # it is a Linear
