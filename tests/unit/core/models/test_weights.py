"""Tensors of a checkpoint that fit a model, and the report about the others."""

from __future__ import annotations

from collections import defaultdict, namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from noether.checkpoint.state import decode_state, encode_state
from noether.core.models.build import AdaptedModule
from noether.core.models.weights import load_weights, match_weights
from noether.errors import CheckpointError, TrainingError


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


class WithExtra(nn.Module):
    """Has other values than tensors in its state: a constant, and what a module calls its extra state."""

    def __init__(self, act: Any = torch.relu, extra: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.act, self.extra = act, extra

    def get_extra_state(self) -> Any:
        return {"act": self.act, "extra": self.extra}

    def set_extra_state(self, state: Any) -> None:
        self.act, self.extra = state["act"], state["extra"]


def through_a_file(model: nn.Module) -> dict[str, Any]:
    return decode_state(*encode_state(model.state_dict()))


@pytest.mark.parametrize(
    "extra", [None, b"\x00\xff", 3, 1.5, -2j, "text", (1, [2.5]), {"n": torch.ones(2)}, [torch.relu]]
)
def test_extra_state_is_given_back_with_the_model_s_own_code(extra: Any) -> None:
    fresh = WithExtra(extra=[torch.relu])
    load_weights(fresh, through_a_file(WithExtra(extra=extra)), "file", hint="")
    assert fresh.act is torch.relu
    assert repr(fresh.extra) == repr(extra)


def test_a_tensor_of_extra_state_may_change_its_shape_and_appear_late() -> None:
    for extra in (torch.ones(5), None):
        fresh = WithExtra(extra=torch.ones(2))
        load_weights(fresh, through_a_file(WithExtra(extra=extra)), "file", hint="")
        assert repr(fresh.extra) == repr(extra)


def test_other_code_in_the_model_is_a_difference() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(WithExtra(torch.tanh), through_a_file(WithExtra()), "file", hint="")
    assert "relu instead of" in caught.value.message


def test_a_file_of_tensors_alone_leaves_the_extra_state() -> None:
    fresh = WithExtra(extra=7)
    match = match_weights(fresh, dict(nn.ModuleDict({"linear": nn.Linear(2, 3)}).state_dict()))
    match.load_into(fresh)
    assert match.is_complete
    assert fresh.extra == 7


@pytest.mark.parametrize(("given", "own"), [(torch.complex64, torch.float32), (torch.float32, torch.int64)])
def test_a_type_that_would_lose_its_values_does_not_fit(given: torch.dtype, own: torch.dtype) -> None:
    model = nn.Module()
    model.register_buffer("mean", torch.zeros(2, dtype=own))
    match = match_weights(model, {"mean": torch.ones(2, dtype=given)})
    assert list(match.other_shape) == ["mean"]


def test_views_that_differ_in_a_flag_or_a_type_are_not_tied() -> None:
    model, values = nn.Module(), torch.tensor([1 + 2j, 3 - 4j])
    model.register_buffer("values", values)
    model.register_buffer("conjugated", values.conj())
    assert match_weights(model, {"values": values.clone()}).missing == ["conjugated"]
    assert torch.equal(through_a_file(model)["conjugated"], values.conj())


class Resists(nn.Linear):
    """Its state is not what was loaded."""

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self.weight.mul_(2)
        return result


def test_a_model_that_changes_what_it_loads_is_named() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(AdaptedModule(Resists(2, 3)), nn.Linear(2, 3).state_dict(), "file", hint="")
    assert "weight" in caught.value.message


def test_nan_and_half_precision_come_back_as_they_are() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.complex128):
        model = nn.Module()
        model.register_buffer("values", torch.tensor([float("nan"), 1.0]).to(dtype))
        model.register_buffer("scalar", torch.ones(()).to(dtype))
        model.register_buffer("empty", torch.ones(0, 3).to(dtype))
        load_weights(model, through_a_file(model), "file", hint="")


CALLED = namedtuple("CALLED", "n")
NESTED: list[Any] = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    "extra",
    [object(), {1}, CALLED(1), defaultdict(int), NESTED, 10**5000, torch.ones(1).to_sparse(), {"x": nn.ReLU()}],
    ids=lambda value: type(value).__name__,
)
def test_what_would_not_come_back_as_it_is_is_refused_when_it_is_saved(extra: Any) -> None:
    with pytest.raises(TrainingError):
        encode_state(WithExtra(extra=extra).state_dict())
