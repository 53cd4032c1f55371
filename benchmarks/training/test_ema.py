"""An exponential moving average: one update and one exchange, compared with the plain loop and the machine.

All sides are checked to agree before they are timed, in rounds that alternate. The medians of the rounds' ratios go
into `extra_info`: both sides of a round share the memory's bandwidth with the same other users. The machine's limit is
one add that reads two streams and writes one, as an average does. A gate is wider than its goal: machines differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks.timing import Timing, interleaved
from noether.core.callbacks.checkpoint.averages import Average, FlatParameters, LiveWeights

FACTOR = 0.999
ROUNDS = 31
FEW_LARGE = {"tensors": 60, "width": 645}  # 25 M parameters
MANY_SMALL = {"tensors": 1200, "width": 32}  # 1.2 M parameters
pytestmark = pytest.mark.usefixtures("one_thread")


class Weights(nn.Module):
    """Nothing but square matrices."""

    def __init__(self, tensors: int, width: int) -> None:
        super().__init__()
        self.held = nn.ParameterList([torch.randn(width, width) for _ in range(tensors)])


def averaged(model: Weights, *, flat: bool = False) -> Average:
    live = LiveWeights(model)
    return Average(live, FACTOR, FlatParameters(list(live.parameters.values())) if flat else None)


@torch.no_grad()
def plain_loop(averages: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    for average, weight in zip(averages, weights, strict=True):
        average.mul_(FACTOR).add_(weight, alpha=1 - FACTOR)


@torch.no_grad()
def timed(calls: dict[str, Callable[[], object]]) -> Timing:
    """Time the calls in rounds of all of them, because each call changes the caches."""
    return interleaved(calls, rounds=ROUNDS)


Goals = dict[tuple[str, str], float]
"""The largest ratio of two calls."""


def publish(
    benchmark: BenchmarkFixture, calls: dict[str, Callable[[], object]], goals: Goals, ungated: Sequence[str] = ()
) -> None:
    """Publish the ratios that have goals; measure up to three times if the machine's other users hide one.

    Those of the names in `ungated` have their goal alone: they vary by more than the gate allows.
    """
    for _ in range(3):
        timing = timed(calls)
        found = {f"{one} / {other}": timing.ratio(one, other) for one, other in goals}
        missed = [
            f"{name}: found {ratio:.3f}, expected at most {goal}"
            for (name, ratio), goal in zip(found.items(), goals.values(), strict=True)
            if ratio > goal
        ]
        if not missed:
            break
    gated = {name: ratio for name, ratio in found.items() if name not in ungated}
    benchmark.extra_info |= found | {"ratios": gated, "us_ours": timing.micro("ours")}
    with torch.no_grad():
        benchmark.pedantic(calls["ours"], rounds=5, warmup_rounds=1)
    assert not missed, "\n".join(missed)


@torch.no_grad()
def agree(model: Weights, averages: Sequence[Average]) -> None:
    """Check that the averages follow the weights as the plain loop does, and leave everything as it was."""
    expected = [parameter.clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter += 0.1
    for _ in range(3):
        plain_loop(expected, list(model.parameters()))
        for average in averages:
            average.update()
    for average in averages:
        for found, wanted in zip(average.state().values(), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.benchmark(group="ema: update of 25 M parameters in 60 tensors")
def test_few_large_tensors(benchmark: BenchmarkFixture) -> None:
    model = Weights(**FEW_LARGE)
    average = averaged(model)
    agree(model, [average])
    one, two = (torch.randn(sum(p.numel() for p in model.parameters())) for _ in range(2))
    by_hand = [parameter.detach().clone() for parameter in model.parameters()]
    calls = {
        "limit": lambda: torch.add(one, two, out=one),
        "plain loop": lambda: plain_loop(by_hand, list(model.parameters())),
        "ours": average.update,
    }
    publish(benchmark, calls, {("ours", "limit"): 1.4, ("ours", "plain loop"): 0.9})  # the goal is 1.1 of the limit


@pytest.mark.benchmark(group="ema: update of 1.2 M parameters in 1,200 tensors")
def test_many_small_tensors(benchmark: BenchmarkFixture) -> None:
    model, flat_model = Weights(**MANY_SMALL), Weights(**MANY_SMALL)
    flat_model.load_state_dict(model.state_dict())
    average, flat = averaged(model), averaged(flat_model, flat=True)
    agree(model, [average])
    agree(flat_model, [flat])
    weights = list(model.parameters())
    by_hand = [parameter.detach().clone() for parameter in weights]
    averages = list(average.state().values())  # the same memory on both sides: its place alone costs up to 15 %
    calls = {
        "cached lists": lambda: torch._foreach_lerp_(averages, weights, 1 - FACTOR),
        "plain loop": lambda: plain_loop(by_hand, weights),
        "ours": average.update,
        "flat": flat.update,
    }
    # The goals are 1.1 and 0.5 of the cached lists.
    goals = {("ours", "cached lists"): 1.4, ("ours", "plain loop"): 0.5, ("flat", "cached lists"): 0.9}
    # One is bound by memory, the other by calls: 0.21 and 0.34 were found on one machine within an hour.
    publish(benchmark, calls, goals, ungated=["flat / cached lists"])


@pytest.mark.benchmark(group="ema: exchange of 1,200 tensors and back")
def test_exchange(benchmark: BenchmarkFixture) -> None:
    model = Weights(**MANY_SMALL)
    average = averaged(model)
    copied = [parameter.detach().clone() for parameter in model.parameters()]

    def exchange() -> None:
        with average.in_place_of_live(exchange=True):
            pass

    def copy_there_and_back() -> None:
        weights = list(model.parameters())
        held = [parameter.detach().clone() for parameter in weights]
        for source in (copied, held):
            for parameter, tensor in zip(weights, source, strict=True):
                parameter.copy_(tensor)

    calls = {"copying": copy_there_and_back, "ours": exchange}
    publish(benchmark, calls, {("ours", "copying"): 0.5})
    benchmark.extra_info["us a tensor"] = benchmark.extra_info["us_ours"] / MANY_SMALL["tensors"] / 2  # there and back
