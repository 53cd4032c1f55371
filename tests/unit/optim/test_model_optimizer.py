"""Scheduling, clipping, stepping, and the state by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from noether.optim.model_optimizer import ModelOptimizer, Scheduled
from noether.optim.schedules import Exponential, ExponentialConfig


def optimizer_over(module: nn.Module, **settings: float | None) -> ModelOptimizer:
    names, parameters = zip(*module.named_parameters(), strict=True)
    return ModelOptimizer(torch.optim.SGD(parameters, lr=1.0), names=names, **settings)


def set_gradients(module: nn.Module, scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize(
    ("settings", "clip_as_torch"),
    [
        ({"clip_grad_norm": 1.5}, lambda p: nn.utils.clip_grad_norm_(p, 1.5)),
        ({"clip_grad_value": 0.3}, lambda p: nn.utils.clip_grad_value_(p, 0.3)),
    ],
    ids=["norm", "value"],
)
def test_clipping_is_that_of_torch(
    network: nn.Sequential, scale: float, settings: dict[str, float], clip_as_torch: Callable[..., object]
) -> None:
    set_gradients(network, scale)
    clip_as_torch(list(network.parameters()))
    expected = [gradient.clone() for gradient in gradients(network)]
    set_gradients(network, scale)
    optimizer_over(network, **settings).clip()
    assert all(torch.equal(found, wanted) for found, wanted in zip(gradients(network), expected, strict=True))


def test_values_are_clipped_before_the_norm(network: nn.Sequential) -> None:
    set_gradients(network, 100.0)
    optimizer = optimizer_over(network, clip_grad_value=0.1, clip_grad_norm=1000.0)
    optimizer.clip()
    entries = sum(parameter.numel() for parameter in network.parameters())
    assert optimizer.last_grad_norm is not None
    assert float(optimizer.last_grad_norm) <= 0.1 * math.sqrt(entries) * (1 + 1e-6)


def test_norm_before_clipping_is_kept(network: nn.Sequential) -> None:
    set_gradients(network, 10.0)
    norm = torch.cat([gradient.flatten() for gradient in gradients(network)]).norm()
    optimizer = optimizer_over(network, clip_grad_norm=1.0)
    optimizer.step()
    assert optimizer.last_grad_norm == pytest.approx(float(norm))


def test_without_clipping_gradients_are_applied_as_they_are(network: nn.Sequential) -> None:
    set_gradients(network, 100.0)
    expected = [p.detach() - g for p, g in zip(network.parameters(), gradients(network), strict=True)]
    optimizer = optimizer_over(network)
    optimizer.step()
    assert all(torch.equal(p, wanted) for p, wanted in zip(network.parameters(), expected, strict=True))
    assert optimizer.last_grad_norm is None


def test_gradients_are_released_not_zeroed(network: nn.Sequential) -> None:
    set_gradients(network, 1.0)
    optimizer_over(network).zero_grad()
    assert gradients(network) == []


@given(st.permutations(list(range(6))))
def test_value_under_a_schedule_depends_on_the_update_alone(updates: list[int]) -> None:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.5, 0.25)])
    schedule = Exponential(ExponentialConfig(gamma=0.5), total_updates=6, updates_per_epoch=2)
    scheduled = Scheduled("lr", schedule, optimizer)
    for update in updates:
        scheduled.apply(update)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * 0.5**update, 0.25 * 0.5**update]


def trained(network: nn.Sequential, optimizer: torch.optim.Optimizer) -> ModelOptimizer:
    set_gradients(network, 1.0)
    optimizer.step()
    names = [f"net.{name}" for name, _ in network.named_parameters()]
    return ModelOptimizer(optimizer, names=names)


def test_state_is_found_by_parameter_name(network: nn.Sequential) -> None:
    adam = torch.optim.Adam(network.parameters())
    tensors = trained(network, adam).state_tensors()
    assert set(tensors) == {
        f"net.{name}/{entry}" for name, _ in network.named_parameters() for entry in ("exp_avg", "exp_avg_sq", "step")
    }
    assert tensors["net.2.bias/exp_avg"] is adam.state[network[2].bias]["exp_avg"]


def test_before_the_first_step_there_is_no_state(network: nn.Sequential) -> None:
    optimizer = optimizer_over(network)
    assert optimizer.state_tensors() == {}
    assert optimizer.state_values()["state"] == {}


def test_group_options_come_with_the_names_of_their_parameters(network: nn.Sequential) -> None:
    optimizer = torch.optim.Adam([{"params": [*network[0].parameters()]}, {"params": [*network[2].parameters()]}])
    optimizer.param_groups[1]["lr"] = 0.5
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    first, second = ModelOptimizer(optimizer, names=names).state_values()["groups"]
    assert (first["names"], second["names"]) == (names[:2], names[2:])
    assert (first["lr"], second["lr"]) == (0.001, 0.5)
    assert "params" not in first


def test_plain_entries_of_the_state_are_kept_by_name() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    adam = torch.optim.SparseAdam(table.parameters())
    table(torch.tensor([1])).sum().backward()
    adam.step()
    assert ModelOptimizer(adam, names=["weight"]).state_values()["state"] == {"weight": {"step": 1}}


def test_the_norm_of_sparse_gradients_that_are_not_applied_is_measured() -> None:
    table = nn.Embedding(3, 2, sparse=True)
    optimizer = ModelOptimizer(torch.optim.SGD(table.parameters()), names=["weight"], clip_grad_norm=1.0)
    table(torch.tensor([1, 1])).sum().backward()
    optimizer.measure()
    assert optimizer.last_grad_norm == pytest.approx(math.sqrt(8.0))  # two entries of one place count as their sum


def test_a_foreign_optimizer_of_torchs_name_may_keep_state_of_other_shapes() -> None:
    class Adam(torch.optim.SGD):
        pass

    saved = []
    for _ in range(2):
        layer = nn.Linear(4, 2)
        optimizer = Adam(layer.parameters(), lr=0.1)
        optimizer.state[layer.weight]["block_maxima"] = torch.ones(3)
        saved.append(ModelOptimizer(optimizer, names=["weight", "bias"]))
    tensors, values = saved[0].state_tensors(), saved[0].state_values()
    saved[1].load_state(tensors, values)


def test_the_norm_of_parameters_that_are_added_in_float16_does_not_overflow(network: nn.Sequential) -> None:
    optimizer = optimizer_over(network, clip_grad_norm=1.0)
    added = nn.Parameter(torch.zeros(4, dtype=torch.float16))
    optimizer._find = lambda: [("added", added)]
    optimizer.add_group({"params": [added], "foreach": False})
    added.grad = torch.full((4,), 60_000.0, dtype=torch.float16)
    optimizer.clip()
    assert float(optimizer.last_grad_norm) == pytest.approx(120_000.0)
