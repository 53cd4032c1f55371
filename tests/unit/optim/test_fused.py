"""The optimizer step without torch's wrappers, against the same optimizer's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from noether.optim.fused import FusedStep
from noether.optim.model_optimizer import ModelOptimizer

Pair = tuple[nn.Module, Optimizer]


def made(kind: type[Optimizer] = AdamW, **options: Any) -> Pair:
    """Return a small network with an optimizer of two groups; each call returns the same numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    groups: list[dict[str, Any]] = [
        {"params": [network[0].weight, network[2].weight]},
        {"params": [network[0].bias, network[2].bias], "weight_decay": 0.0, "lr": 0.02},
    ]
    return network, kind(groups, **{"lr": 0.05, "weight_decay": 0.1, "fused": True, **options})


def give_gradients(network: nn.Module, update: int) -> None:
    generator = torch.Generator().manual_seed(update)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def trained(
    pair: Pair, *, ours: bool, updates: int = 5, between: Callable[[Pair, int], object] = lambda *_: None
) -> list[bool]:
    """Do some optimizer steps; return which of them were ours."""
    network, optimizer = pair
    step, were_ours = FusedStep.of(optimizer), []
    for update in range(updates):
        give_gradients(network, update)
        between(pair, update)
        were_ours.append(ours and step is not None and step())
        if not were_ours[-1]:
            optimizer.step()
    return were_ours


def everything(pair: Pair) -> Iterator[Tensor]:
    network, optimizer = pair
    yield from network.parameters()
    for state in optimizer.state.values():
        yield from state.values()


def assert_equal(one: Pair, other: Pair) -> None:
    found, expected = list(everything(one)), list(everything(other))
    assert len(found) == len(expected)
    assert all(map(torch.equal, found, expected))


PLAIN = [False, True, True, True, True]  # torch's own step makes the state


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"betas": (0.5, 0.7), "eps": 1e-3}])
def test_it_has_the_bits_of_torchs_own_step(kind: type[Optimizer], options: dict[str, Any]) -> None:
    one, other = made(kind, **options), made(kind, **options)
    assert trained(one, ours=True) == PLAIN
    trained(other, ours=False)
    assert_equal(one, other)


def changed_rate(pair: Pair, update: int) -> None:
    pair[1].param_groups[0]["lr"] = 0.1 / (1 + update)


def with_new_state(pair: Pair, update: int) -> None:
    for state in pair[1].state.values():
        state["exp_avg"] = state["exp_avg"] * 0.5


def without_state(pair: Pair, update: int) -> None:
    if update == 2:
        pair[1].state.clear()


def with_one_state_anew(pair: Pair, update: int) -> None:
    weight = pair[1].param_groups[0]["params"][0]
    if update == 2:
        pair[1].state[weight] = {}


def in_another_order(pair: Pair, update: int) -> None:
    if update == 2:
        states = list(pair[1].state.items())
        pair[1].state.clear()
        pair[1].state.update(reversed(states))


def without_a_gradient(pair: Pair, update: int) -> None:
    if update == 2:
        pair[0][2].bias.grad = None  # type: ignore[index]


def loaded(pair: Pair, update: int) -> None:
    pair[1].load_state_dict(pair[1].state_dict())


def masked(pair: Pair, update: int) -> None:
    pair[1].found_inf = torch.tensor(float(update % 2))  # type: ignore[attr-defined]


def with_a_tensor_as_rate(pair: Pair, update: int) -> None:
    pair[1].param_groups[0]["lr"] = torch.tensor(0.05)


@pytest.mark.parametrize(
    ("between", "were_ours"),
    [
        (changed_rate, PLAIN),
        (with_new_state, PLAIN),
        (without_state, [False, True, False, True, True]),
        (with_one_state_anew, [False, True, False, True, True]),
        (in_another_order, [False, True, False, False, False]),
        (without_a_gradient, [False, True, False, True, True]),
        (loaded, PLAIN),
        (masked, PLAIN),
        (with_a_tensor_as_rate, [False] * 5),
    ],
)
def test_what_a_callback_changes_between_steps_counts(
    between: Callable[[Pair, int], object], were_ours: list[bool]
) -> None:
    one, other = made(), made()
    assert trained(one, ours=True, between=between) == were_ours
    trained(other, ours=False, between=between)
    assert_equal(one, other)


def of_this_optimizer(optimizer: Optimizer, hook: Callable[..., None]) -> Any:
    return optimizer.register_step_post_hook(hook)


def before_this_optimizer(optimizer: Optimizer, hook: Callable[..., None]) -> Any:
    return optimizer.register_step_pre_hook(hook)


def of_all_optimizers(_: Optimizer, hook: Callable[..., None]) -> Any:
    return register_optimizer_step_post_hook(hook)


def before_all_optimizers(_: Optimizer, hook: Callable[..., None]) -> Any:
    return register_optimizer_step_pre_hook(hook)


@pytest.mark.parametrize(
    "register", [of_this_optimizer, before_this_optimizer, of_all_optimizers, before_all_optimizers]
)
def test_hooks_of_an_optimizer_step_are_called(register: Callable[..., Any]) -> None:
    pair, called = made(), []
    handle = register(pair[1], lambda *_: called.append(1))
    try:
        assert trained(pair, ours=True, updates=3) == [False] * 3
    finally:
        handle.remove()
    assert len(called) == 3
    assert trained(pair, ours=True, updates=1) == [True]


def test_a_step_that_was_replaced_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, called = made(), []
    own = pair[1].step
    trained(pair, ours=True, updates=2)

    def counting() -> None:
        called.append(1)
        own()

    monkeypatch.setattr(pair[1], "step", counting)
    assert trained(pair, ours=True, updates=2) == [False] * 2
    monkeypatch.undo()
    monkeypatch.setattr(AdamW, "step", lambda self: called.append(1))
    assert FusedStep.of(pair[1]) is None
    assert called == [1, 1]


def test_under_a_profiler_torchs_own_step_is_seen() -> None:
    pair = made()
    trained(pair, ours=True, updates=2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert trained(pair, ours=True, updates=1) == [False]
    assert any("Optimizer.step#AdamW" in event.key for event in profile.key_averages())


def test_with_gradients_enabled_it_is_torchs_that_switches_them_off() -> None:
    pair = made()
    trained(pair, ours=True, updates=2)
    step = FusedStep.of(pair[1])
    assert step is not None
    with torch.enable_grad():
        assert not step()


class Own(AdamW):
    """A subclass may do anything in its step."""


@pytest.mark.parametrize(("kind", "options"), [(SGD, {}), (Own, {})])
def test_other_optimizers_are_left_to_torch(kind: type[Optimizer], options: dict[str, Any]) -> None:
    assert FusedStep.of(made(kind, **options)[1]) is None


@pytest.mark.parametrize("options", [{"amsgrad": True}, {"fused": False}, {"fused": False, "capturable": False}])
def test_other_kernels_are_left_to_torch(options: dict[str, Any]) -> None:
    assert not any(trained(made(**options), ours=True))


def test_groups_of_several_types_are_left_to_torch() -> None:
    network = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.float64)])
    assert FusedStep.of(AdamW(network.parameters(), fused=True)) is None


def test_gradients_are_released_as_torch_does_and_by_a_function_of_the_user(network: nn.Sequential) -> None:
    names, parameters = zip(*network.named_parameters(), strict=True)
    optimizer = AdamW(parameters, fused=True)
    ours = ModelOptimizer(optimizer, names=names)
    give_gradients(network, 0)
    ours.zero_grad()
    assert all(parameter.grad is None for parameter in parameters)
    give_gradients(network, 0)
    vars(optimizer)["zero_grad"] = partial(Optimizer.zero_grad, optimizer, set_to_none=False)
    ours.zero_grad()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in parameters)
