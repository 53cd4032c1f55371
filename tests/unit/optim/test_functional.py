"""Optimizer steps as functions of tensors agree with those of torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from noether.optim.functional import FunctionalStep, step_refusal
from noether.optim.model_optimizer import ModelOptimizer
from noether.testing import make_model

FINE, BAD = torch.tensor(False), torch.tensor(True)


def optimizer_of(table: dict[str, Any], *, seed: int = 0) -> ModelOptimizer:
    model = make_model(seed=seed, optimizer=table)
    model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    assert model.optimizer is not None
    return model.optimizer


def step_of(optimizer: ModelOptimizer) -> FunctionalStep:
    step = FunctionalStep(optimizer)
    step.create_state()
    return step


def gradients_of(optimizer: ModelOptimizer, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(parameter.shape, generator=generator) for parameter in optimizer.parameters]


def do(step: FunctionalStep, gradients: list[Tensor], bad: Tensor = FINE) -> Tensor | None:
    step.refresh()
    with torch.no_grad():
        clipped, norm = step.clipped(gradients, bad)
        step.apply(step.parameters, step.states(), step.given, clipped, bad)
    return norm


def everything(optimizer: ModelOptimizer) -> dict[str, Tensor]:
    weights = dict(zip(optimizer.names, optimizer.parameters, strict=True))
    return {name: tensor.detach().clone() for name, tensor in {**weights, **optimizer.state_tensors()}.items()}


OPTIMIZERS = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("SGD"),
            "momentum": st.sampled_from([0.0, 0.9]),
            "weight_decay": st.sampled_from([0.0, 0.1]),
            "maximize": st.booleans(),
        }
    ),
    st.just({"kind": "SGD", "momentum": 0.9, "nesterov": True}),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["Adam", "AdamW"]),
            "betas": st.sampled_from([[0.9, 0.999], [0.5, 0.9]]),
            "weight_decay": st.sampled_from([0.0, 0.1]),
            "amsgrad": st.booleans(),
            "maximize": st.booleans(),
        }
    ),
)
CLIPPING = st.fixed_dictionaries(
    {"clip_grad_norm": st.sampled_from([None, 0.5]), "clip_grad_value": st.sampled_from([None, 0.3])}
)
GROUPS = st.sampled_from([[], [{"match": ["*.bias"], "lr_scale": 0.1, "weight_decay": 0.0}]])


@settings(max_examples=40)
@given(table=OPTIMIZERS, clipping=CLIPPING, groups=GROUPS, schedule=st.sampled_from([None, "cosine"]))
def test_any_options_give_what_torch_gives_within_rounding(table, clipping, groups, schedule):
    table = {**table, **clipping, "groups": groups, "schedule": schedule, "lr": 0.05}
    ours, torchs = optimizer_of(table), optimizer_of(table)
    step = step_of(ours)
    for update in range(4):
        for optimizer in (ours, torchs):
            optimizer.schedule_step(update)
        gradients = gradients_of(ours, update)
        norm = do(step, gradients)
        for parameter, gradient in zip(torchs.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torchs.step()
        assert (norm is None) is (torchs.last_grad_norm is None)
        assert norm is None or torch.allclose(norm, torchs.last_grad_norm)
    found, expected = everything(ours), everything(torchs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_a_masked_step_changes_nothing(kind):
    optimizer = optimizer_of({"kind": kind, "lr": 0.1, **({"momentum": 0.9} if kind == "SGD" else {})})
    step = step_of(optimizer)
    do(step, gradients_of(optimizer, 0))
    before = everything(optimizer)
    do(step, [torch.full_like(parameter, torch.nan) for parameter in optimizer.parameters], BAD)
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(optimizer).items())


def test_a_value_that_a_callback_sets_is_used_by_the_next_step():
    optimizer = optimizer_of({"kind": "SGD", "lr": 0.1})
    step = step_of(optimizer)
    optimizer.torch_optimizer.param_groups[0]["lr"] = 0.0
    before = everything(optimizer)
    do(step, gradients_of(optimizer, 0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(optimizer).items())


def test_a_state_that_was_loaded_makes_a_step_out_of_date():
    optimizer = optimizer_of({"kind": "AdamW", "lr": 0.1})
    step = step_of(optimizer)
    assert step.is_current()
    optimizer.torch_optimizer.load_state_dict(copy.deepcopy(optimizer.torch_optimizer.state_dict()))
    assert not step.is_current()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"kind": "RMSprop"}, "RMSprop"),
        ({"kind": "SGD", "momentum": 0.9, "dampening": 0.5}, "dampening"),
        ({"kind": "Adam", "capturable": True}, "capturable"),
    ],
)
def test_other_optimizers_and_options_are_refused(table, reason):
    assert reason in (step_refusal(optimizer_of({"lr": 0.1, **table})) or "")


def test_parameters_in_half_precision_are_refused():
    weight = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    optimizer = ModelOptimizer(torch.optim.SGD([weight], lr=0.1), names=["weight"])
    assert "bfloat16" in (step_refusal(optimizer) or "")
