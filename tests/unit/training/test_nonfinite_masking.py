"""Optimizer steps that a flag on the device skips."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from noether.core.models.base import ModelBase
from noether.optim.kernels import single
from noether.testing import make_model
from noether.training import nonfinite
from noether.training.nonfinite import MomentumStart, step_masked, takes_found_inf


def parameter() -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.ones(3))
    made.grad = torch.full((3,), 0.5)
    return made


def prepared(optimizer: dict[str, Any]) -> tuple[ModelBase, list[torch.optim.Optimizer]]:
    model = make_model(optimizer=optimizer)
    model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 0.5)
    return model, [entry.torch_optimizer for entry in model.optimizers().values()]


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_masked_step_changes_neither_weights_nor_state(kind: str) -> None:
    model, optimizers = prepared({"kind": kind, "weight_decay": 0.1})
    assert takes_found_inf(optimizers[0])
    step_masked(model, optimizers, torch.zeros(()))
    before = [*model.state_dict().values(), *model.optimizers()["model"].state_tensors().values()]
    before = [tensor.clone() for tensor in before]
    step_masked(model, optimizers, torch.ones(()))
    after = [*model.state_dict().values(), *model.optimizers()["model"].state_tensors().values()]
    assert all(map(torch.equal, before, after))


def test_a_mask_is_gone_after_its_step() -> None:
    model, optimizers = prepared({"kind": "AdamW"})
    step_masked(model, optimizers, torch.ones(()))
    before = [weight.clone() for weight in model.parameters()]
    optimizers[0].step()
    assert not any(map(torch.equal, before, model.parameters()))


def test_an_optimizer_without_a_fused_kernel_takes_no_flag() -> None:
    assert not takes_found_inf(torch.optim.AdamW([parameter()], fused=False))
    assert not takes_found_inf(torch.optim.Adadelta([parameter()]))


def test_an_optimizer_that_wants_the_scaler_itself_takes_no_flag() -> None:
    class Older(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure: Any = None, *, grad_scaler: Any = None) -> None:  # type: ignore[override]
            super().step(closure)

    assert not takes_found_inf(Older([parameter()]))


def test_a_group_that_is_not_fused_takes_no_flag() -> None:
    optimizer = torch.optim.SGD([parameter()], fused=True)
    optimizer.param_groups[0]["fused"] = False
    assert not takes_found_inf(optimizer)


def test_momentum_starts_until_every_parameter_with_a_gradient_has_one() -> None:
    first, later = parameter(), parameter()
    later.grad = None
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [later]}], momentum=0.9, fused=True)
    start = MomentumStart([optimizer])
    assert start.is_near()
    optimizer.step()
    assert not start.is_near()
    later.grad = torch.ones(3)
    assert start.is_near()
    optimizer.step()
    assert not start.is_near()


@pytest.mark.parametrize("options", [{"kind": "SGD"}, {"kind": "AdamW"}])
def test_without_momentum_nothing_starts(options: dict[str, Any]) -> None:
    assert not MomentumStart(prepared(options)[1]).is_near()


def test_a_masked_step_reads_a_learning_rate_as_a_graph_does_on_a_device_with_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nonfinite, "ROUNDING_DEVICES", frozenset({"cpu"}))
    weights = []
    for rate in (0.013, single(0.013)):
        model, optimizers = prepared({"kind": "SGD", "lr": rate})
        seen: list[float] = []
        optimizers[0].register_step_pre_hook(lambda one, *_: seen.append(one.param_groups[0]["lr"]))  # noqa: B023
        step_masked(model, optimizers, torch.zeros(()))
        assert (seen, optimizers[0].param_groups[0]["lr"]) == ([single(0.013)], rate)
        weights.append([weight.clone() for weight in model.parameters()])
    assert all(map(torch.equal, *weights))
