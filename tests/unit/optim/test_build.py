"""Optimizers built from a spec's optimizer table."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from noether.config.discriminated import Discriminated
from noether.errors import SpecError
from noether.kernel.registry import active_registry
from noether.optim.build import build_optimizer
from noether.optim.model_optimizer import ModelOptimizer

CONFIG: TypeAdapter[Any] = TypeAdapter(Annotated[Any, Discriminated("optimizer")])
OPTIONS: dict[str, dict[str, Any]] = {
    "ASGD": {"lambd": 0.01},
    "Adadelta": {"rho": 0.8},
    "Adafactor": {"d": 2.0},
    "Adagrad": {"lr_decay": 0.1},
    "Adam": {"betas": [0.8, 0.9]},
    "AdamW": {"amsgrad": True},
    "Adamax": {"eps": 1e-6},
    "LBFGS": {"history_size": 3},
    "Muon": {"momentum": 0.5},
    "NAdam": {"momentum_decay": 0.1},
    "RAdam": {"decoupled_weight_decay": True},
    "RMSprop": {"centered": True},
    "Rprop": {"etas": [0.4, 1.3]},
    "SGD": {"nesterov": True, "momentum": 0.9},
    "SparseAdam": {"eps": 1e-6},
}
"""An option of each that differs from its default."""

ORDINARY = sorted(OPTIONS.keys() - {"LBFGS", "Muon", "SparseAdam"})


def build(module: nn.Module, kind: str, **settings: Any) -> ModelOptimizer:
    config = CONFIG.validate_json(CONFIG.dump_json({"kind": kind, **settings}))  # strictly, as a spec's table
    return build_optimizer(config, list(module.named_parameters()), total_updates=10, updates_per_epoch=5)


def step(module: nn.Module, optimizer: ModelOptimizer, inputs: torch.Tensor) -> None:
    module(inputs).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def snapshot(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def moved(module: nn.Module, before: list[torch.Tensor]) -> bool:
    return all(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


def test_every_optimizer_that_is_listed_is_tried_here() -> None:
    assert {entry.name for entry in active_registry().entries("optimizer") if entry.is_built_in} == OPTIONS.keys()


@pytest.mark.parametrize("kind", ORDINARY)
def test_optimizer_with_an_option_moves_every_parameter(kind: str, network: nn.Sequential) -> None:
    optimizer = build(network, kind, lr=0.05, **OPTIONS[kind])
    before = snapshot(network)
    step(network, optimizer, torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    assert moved(network, before)
    for option, value in OPTIONS[kind].items():
        assert all(list_of(group[option]) == list_of(value) for group in optimizer.torch_optimizer.param_groups)


def list_of(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_muon_trains_matrices() -> None:
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    optimizer = build(network, "Muon", **OPTIONS["Muon"])
    before = snapshot(network)
    step(network, optimizer, torch.randn(6, 3))
    assert moved(network, before)


def test_muon_over_biases_is_refused_with_torch_s_reason(network: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        build(network, "Muon")
    assert "'Muon'" in str(caught.value)


def test_sparse_adam_trains_sparse_gradients() -> None:
    network = nn.Embedding(3, 2, sparse=True)
    optimizer = build(network, "SparseAdam", **OPTIONS["SparseAdam"])
    before = snapshot(network)
    step(network, optimizer, torch.tensor([0, 1, 2]))
    assert moved(network, before)


def test_optimizers_that_evaluate_the_loss_themselves_are_known(network: nn.Sequential) -> None:
    assert build(network, "LBFGS").traits.takes_closure
    assert not build(network, "SGD").traits.takes_closure


def test_options_that_torch_refuses_are_a_spec_error(network: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        build(network, "SGD", nesterov=True)
    assert "'SGD'" in str(caught.value)


def test_a_model_without_trainable_parameters_has_no_optimizer(network: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        build(network.requires_grad_(False), "SGD")
    assert "frozen" in str(caught.value)


def test_weight_decay_of_torch_s_default_spares_biases_too(network: nn.Sequential) -> None:
    decayed, spared = build(network, "AdamW").torch_optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)


# Implementation: torch's fused kernels, unless the spec chose otherwise


def implementation(optimizer: ModelOptimizer) -> dict[str, Any]:
    (group,) = optimizer.torch_optimizer.param_groups
    return {key: group[key] for key in ("fused", "foreach", "differentiable", "capturable") if key in group}


@pytest.mark.parametrize("kind", ["SGD", "Adam", "Adagrad"])
def test_fused_kernel_is_taken_where_torch_has_one(kind: str, network: nn.Sequential) -> None:
    assert implementation(build(network, kind))["fused"] is True


@pytest.mark.parametrize(
    "choice",
    [{"fused": False}, {"foreach": True}, {"foreach": False}, {"differentiable": True}, {"capturable": True}],
    ids=str,
)
def test_an_implementation_that_the_spec_chose_stays(choice: dict[str, bool], network: nn.Sequential) -> None:
    found = implementation(build(network, "Adam", **choice))
    assert found["fused"] in (None, False)
    assert found | choice == found


def test_parameters_that_the_fused_kernel_does_not_take_get_torch_s_default() -> None:
    network = nn.Linear(2, 2, dtype=torch.complex64)
    assert implementation(build(network, "Adam"))["fused"] is None


def test_fused_steps_are_those_of_torch_s_plain_loop(network: nn.Sequential) -> None:
    twin = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    twin.load_state_dict(network.state_dict())
    fused, plain = build(network, "AdamW", lr=0.1), build(twin, "AdamW", lr=0.1, foreach=False)
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        step(network, fused, inputs)
        step(twin, plain, inputs)
    torch.testing.assert_close(network.state_dict(), twin.state_dict())


# Schedules


def test_schedules_set_rate_and_weight_decay_of_every_group(network: nn.Sequential) -> None:
    optimizer = build(network, "AdamW", lr=0.4, weight_decay=0.2, schedule="linear", weight_decay_schedule="cosine")
    optimizer.schedule_step(5)
    decayed, spared = optimizer.torch_optimizer.param_groups
    assert optimizer.lr == decayed["lr"] == spared["lr"] == pytest.approx(0.2)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (pytest.approx(0.1), 0.0)


def test_a_schedule_of_an_option_that_the_optimizer_lacks_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        build(network, "Rprop", weight_decay_schedule="cosine")
    assert "'Rprop'" in str(caught.value)
    assert "weight_decay" in str(caught.value)


# Groups


def test_a_schedule_scales_the_rate_of_each_group_on_its_own_base(network: nn.Sequential) -> None:
    groups = [{"match": ["0.*"], "lr_scale": 0.5, "weight_decay": 0.0}]
    optimizer = build(network, "AdamW", lr=0.4, weight_decay=0.2, schedule="linear", groups=groups)
    for update, factor in ((0, 1.0), (5, 0.5), (0, 1.0)):
        optimizer.schedule_step(update)
        rates = [group["lr"] for group in optimizer.torch_optimizer.param_groups]
        assert rates == pytest.approx([0.4 * factor, 0.4 * factor, 0.2 * factor])
        assert optimizer.lr == pytest.approx(0.4 * factor)


def test_a_weight_decay_schedule_scales_that_of_each_group(network: nn.Sequential) -> None:
    groups = [{"match": ["0.*"], "weight_decay": 0.4}]
    optimizer = build(network, "AdamW", weight_decay=0.2, weight_decay_schedule="linear", groups=groups)
    optimizer.schedule_step(5)
    decays = [group["weight_decay"] for group in optimizer.torch_optimizer.param_groups]
    assert decays == pytest.approx([0.1, 0.0, 0.2, 0.0])


def test_the_rate_of_a_group_is_a_share_of_torch_s_default_where_the_spec_has_none(network: nn.Sequential) -> None:
    optimizer = build(network, "Adam", groups=[{"match": ["0.*"], "lr_scale": 0.5}])
    assert [group["lr"] for group in optimizer.torch_optimizer.param_groups] == [0.001, 0.0005]


def test_a_weight_decay_for_an_optimizer_without_one_is_refused(network: nn.Sequential) -> None:
    with pytest.raises(SpecError) as caught:
        build(network, "Rprop", groups=[{"match": ["0.*"], "weight_decay": 0.1}])
    assert "weight_decay" in str(caught.value)


def test_state_is_named_after_the_parameters_whatever_the_groups_are(network: nn.Sequential) -> None:
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    optimizer = build(network, "Adam", groups=[{"match": ["2.*"], "lr_scale": 0.5}, {"match": ["0.bias"]}])
    step(network, optimizer, inputs)
    names = [name for name, _ in network.named_parameters()]
    for name, parameter in network.named_parameters():
        assert optimizer.state_tensors()[f"{name}/exp_avg"] is optimizer.torch_optimizer.state[parameter]["exp_avg"]
    assert sorted(name for group in optimizer.state_values()["groups"] for name in group["names"]) == sorted(names)


def test_a_folder_of_the_compiler_that_cannot_be_made_is_not_blamed_on_options(monkeypatch) -> None:
    def without_folder(self: Any, *_: Any, **__: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/nothing")

    monkeypatch.setattr(torch.optim.SGD, "__init__", without_folder)
    with pytest.raises(SpecError) as error:
        build(nn.Linear(2, 2), "SGD")
    assert "options" not in str(error.value)
    assert "TORCHINDUCTOR_CACHE_DIR" in str(error.value.hint)
