"""An optimizer continues exactly from a saved state, for any order of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from noether.checkpoint.state_tree import join_state, split_state
from noether.checkpoint.tensor_file import decode_tensors, encode_tensors
from noether.errors import CheckpointError
from noether.optim.model_optimizer import ModelOptimizer
from noether.optim.schedules import Exponential, ExponentialConfig, Scheduled

Build = Callable[[Any], torch.optim.Optimizer]
KINDS: dict[str, Build] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "Adam amsgrad foreach": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True, foreach=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
}


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def optimizer_over(module: nn.Module, build: Build, *, backwards: bool = False) -> ModelOptimizer:
    """Decayed and other parameters in two groups, as specs have them."""
    named = list(module.named_parameters())[:: -1 if backwards else 1]
    groups = [[pair for pair in named if (pair[1].ndim > 1) is flag] for flag in (True, False)]
    optimizer = build([{"params": [p for _, p in group]} for group in groups])
    return ModelOptimizer(optimizer, names=[name for group in groups for name, _ in group])


def train(module: nn.Module, optimizer: ModelOptimizer, updates: range) -> None:
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.schedule_step(update)
        optimizer.step()


def through_a_checkpoint(optimizer: ModelOptimizer) -> tuple[dict[str, torch.Tensor], Any]:
    tensors = decode_tensors(encode_tensors(optimizer.state_tensors())[0], {})
    return tensors, join_state(*split_state(optimizer.state_values(), "the optimizer"))


def copied(module: nn.Sequential) -> nn.Sequential:
    twin = network()
    twin.load_state_dict(module.state_dict())
    return twin


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backwards", [False, True], ids=["same order", "other order"])
def test_training_goes_on_bit_by_bit(kind: str, backwards: bool) -> None:
    straight = network()
    optimizer = optimizer_over(straight, KINDS[kind])
    train(straight, optimizer, range(3))
    resumed, state = copied(straight), through_a_checkpoint(optimizer)
    continued = optimizer_over(resumed, KINDS[kind], backwards=backwards)
    continued.load_state(*state)
    train(straight, optimizer, range(3, 6))
    train(resumed, continued, range(3, 6))
    assert equal(straight, resumed)
    found, wanted = continued.state_tensors(), optimizer.state_tensors()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) and found[key].dtype == wanted[key].dtype for key in found)


def test_a_state_from_before_the_first_update_can_be_taken_back() -> None:
    module = network()
    tensors, values = through_a_checkpoint(optimizer_over(module, KINDS["AdamW"]))
    optimizer_over(module, KINDS["AdamW"]).load_state(tensors, values)


def test_a_state_keeps_the_type_it_was_saved_in() -> None:
    module = network().bfloat16()
    optimizer = optimizer_over(module, KINDS["AdamW"])
    train(module, optimizer, range(1))
    tensors, values = through_a_checkpoint(optimizer)
    tensors = {key: tensor.float() for key, tensor in tensors.items()}  # as an optimizer of higher precision has it
    optimizer.load_state(tensors, values)
    assert optimizer.state_tensors()["0.weight/exp_avg"].dtype is torch.float32


def test_plain_entries_come_back() -> None:
    table = nn.Embedding(3, 2, sparse=True)

    def adam() -> ModelOptimizer:
        return ModelOptimizer(torch.optim.SparseAdam(table.parameters()), names=["weight"])

    optimizer, continued = adam(), adam()
    table(torch.tensor([1])).sum().backward()
    optimizer.step()
    continued.load_state(*through_a_checkpoint(optimizer))
    assert continued.state_values()["state"] == {"weight": {"step": 1}}


@pytest.mark.parametrize(
    ("dropped", "expected"),
    [
        ("now", "not expected 2.bias"),
        ("then", "missing 2.bias"),
    ],
)
def test_other_parameters_are_named(dropped: str, expected: str) -> None:
    then, now = network(), network()
    for module, moment in ((then, "then"), (now, "now")):
        if moment == dropped:
            module[2].register_parameter("bias", None)
    with pytest.raises(CheckpointError) as caught:
        optimizer_over(now, KINDS["SGD"]).load_state(*through_a_checkpoint(optimizer_over(then, KINDS["SGD"])))
    assert expected in str(caught.value)


def schedule_of(optimizer: torch.optim.Optimizer) -> Scheduled:
    schedule = Exponential(ExponentialConfig(gamma=0.5), total_updates=6, updates_per_epoch=2)
    return Scheduled("lr", schedule, optimizer.param_groups)


def test_a_schedule_still_sets_the_values_after_the_state_came_back() -> None:
    module = network()
    torch_optimizer = torch.optim.AdamW(module.parameters(), lr=1.0)
    names = [name for name, _ in module.named_parameters()]
    optimizer = ModelOptimizer(torch_optimizer, names=names, scheduled=[schedule_of(torch_optimizer)])
    train(module, optimizer, range(3))
    optimizer.load_state(*through_a_checkpoint(optimizer))
    optimizer.schedule_step(1)
    assert optimizer.lr == 0.5


def test_a_schedule_still_sets_the_values_after_a_callback_has_loaded_a_state() -> None:
    module = network()
    torch_optimizer = torch.optim.AdamW(module.parameters(), lr=1.0)
    names = [name for name, _ in module.named_parameters()]
    optimizer = ModelOptimizer(torch_optimizer, names=names, scheduled=[schedule_of(torch_optimizer)])
    optimizer.schedule_step(0)
    torch_optimizer.load_state_dict(torch_optimizer.state_dict())
    optimizer.schedule_step(2)
    assert torch_optimizer.param_groups[0]["lr"] == optimizer.lr == 0.25


def test_options_stay_those_of_this_run() -> None:
    then = optimizer_over(network(), lambda p: torch.optim.AdamW(p, lr=0.1))
    now = optimizer_over(network(), lambda p: torch.optim.AdamW(p, lr=0.3))
    now.load_state(*through_a_checkpoint(then))
    assert [group["lr"] for group in now.torch_optimizer.param_groups] == [0.3, 0.3]


def test_values_of_a_schedule_do_not_outlive_it() -> None:
    module = network()
    torch_optimizer = torch.optim.AdamW(module.parameters(), lr=1.0)
    names = [name for name, _ in module.named_parameters()]
    then = ModelOptimizer(torch_optimizer, names=names, scheduled=[schedule_of(torch_optimizer)])
    train(module, then, range(3))
    now = ModelOptimizer(torch.optim.AdamW(module.parameters(), lr=0.3), names=names)
    now.load_state(*through_a_checkpoint(then))
    assert now.lr == 0.3


def test_an_option_that_the_run_had_changed_itself_comes_back() -> None:
    then, now = (optimizer_over(network(), KINDS["AdamW"]) for _ in range(2))
    first, second = then.torch_optimizer.param_groups
    first["lr"], second["distance"] = 0.05, torch.tensor(2.5)
    now.load_state(*through_a_checkpoint(then))
    first, second = now.torch_optimizer.param_groups
    assert (first["lr"], second["lr"]) == (0.05, 0.1)
    assert torch.equal(second["distance"], torch.tensor(2.5))
    assert now.state_values()["groups"][0]["changed"] == ["lr"]  # and so it does after the next resume


def test_changed_options_of_groups_that_are_one_now_are_refused() -> None:
    then = optimizer_over(network(), KINDS["AdamW"])
    then.torch_optimizer.param_groups[0]["lr"] = 0.05
    module = network()
    names = [name for name, _ in module.named_parameters()]
    now = ModelOptimizer(torch.optim.AdamW(module.parameters()), names=names)
    with pytest.raises(CheckpointError) as caught:
        now.load_state(*through_a_checkpoint(then))
    assert "lr" in str(caught.value)


def test_the_state_of_another_optimizer_is_refused() -> None:
    then, now = (optimizer_over(network(), KINDS[kind]) for kind in ("AdamW", "SGD"))
    with pytest.raises(CheckpointError) as caught:
        now.load_state(*through_a_checkpoint(then))
    assert "SGD" in str(caught.value)
    assert "AdamW" in str(caught.value)
