"""Every schedule against the class of torch.optim.lr_scheduler that has its shape, over a whole run and beyond."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch.optim import SGD
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler

from noether.config.discriminated import Discriminated
from noether.optim.build import build_schedule
from noether.optim.schedules import Schedule

LR, PER_EPOCH = 0.1, 5
CONFIG: TypeAdapter[Any] = TypeAdapter(Annotated[Any, Discriminated("schedule")])


def schedule(total: int, kind: str, **settings: Any) -> Schedule:
    config = CONFIG.validate_python({"kind": kind, **settings})
    return build_schedule(config, total_updates=total, updates_per_epoch=PER_EPOCH)


def rates_of_torch(make: Callable[..., LRScheduler], updates: int, **settings: Any) -> list[float]:
    """Return the rate of each update, as a loop with a torch scheduler has it."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer, **settings)
    rates = []
    for _ in range(updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def rates_of_ours(found: Schedule, updates: int) -> list[float]:
    return [LR * found.factor(update) for update in range(updates)]


TWINS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("constant", {"scale": 0.25, "hold_updates": 7}, "ConstantLR", {"factor": 0.25, "total_iters": 7}),
    ("constant", {"scale": 0.25, "hold_epochs": 2}, "ConstantLR", {"factor": 0.25, "total_iters": 10}),
    (
        "linear",
        {"start": 0.2, "end": 0.7, "over_updates": 11},
        "LinearLR",
        {"start_factor": 0.2, "end_factor": 0.7, "total_iters": 11},
    ),
    ("linear", {"start": 1.0, "end": 0.0}, "LinearLR", {"start_factor": 1, "end_factor": 0, "total_iters": 40}),
    ("cosine", {"end": 0.1}, "CosineAnnealingLR", {"T_max": 40, "eta_min": 0.1 * LR}),
    (
        "cosine-restarts",
        {"first_updates": 6, "end": 0.1},
        "CosineAnnealingWarmRestarts",
        {"T_0": 6, "eta_min": 0.1 * LR},
    ),
    ("cosine-restarts", {"first_percent": 10, "growth": 2}, "CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": 2}),
    ("polynomial", {"power": 2.0, "over_epochs": 3}, "PolynomialLR", {"power": 2.0, "total_iters": 15}),
    ("polynomial", {}, "PolynomialLR", {"power": 1.0, "total_iters": 40}),
    ("step", {"gamma": 0.5, "every_updates": 7}, "StepLR", {"gamma": 0.5, "step_size": 7}),
    ("step", {"gamma": 0.5, "every_epochs": 1}, "StepLR", {"gamma": 0.5, "step_size": PER_EPOCH}),
    ("step", {"gamma": 0.5, "every_percent": 25}, "StepLR", {"gamma": 0.5, "step_size": 10}),
    ("multi-step", {"milestones": [21, 9, 9], "gamma": 0.3}, "MultiStepLR", {"milestones": [9, 9, 21], "gamma": 0.3}),
    ("exponential", {"gamma": 0.9}, "ExponentialLR", {"gamma": 0.9}),
    ("one-cycle", {"rise": 0.4}, "OneCycleLR", {"max_lr": LR, "total_steps": 40, "pct_start": 0.4}),
    (
        "one-cycle",
        {"anneal": "linear", "start_divisor": 5.0, "end_divisor": 10.0},
        "OneCycleLR",
        {"max_lr": LR, "total_steps": 40, "anneal_strategy": "linear", "div_factor": 5, "final_div_factor": 10},
    ),
    (
        "cyclic",
        {"floor": 0.2, "up_updates": 6},
        "CyclicLR",
        {"base_lr": 0.2 * LR, "max_lr": LR, "step_size_up": 6, "cycle_momentum": False},
    ),
    (
        "cyclic",
        {"floor": 0.0, "up_epochs": 1, "mode": "triangular2"},
        "CyclicLR",
        {"base_lr": 0, "max_lr": LR, "step_size_up": 5, "mode": "triangular2", "cycle_momentum": False},
    ),
]


@pytest.mark.parametrize(("kind", "ours", "name", "theirs"), TWINS, ids=[f"{twin[0]}-{twin[1]}" for twin in TWINS])
def test_rates_of_a_whole_run_are_those_of_torch(
    kind: str, ours: dict[str, Any], name: str, theirs: dict[str, Any]
) -> None:
    expected = rates_of_torch(getattr(torch_schedules, name), 40, **theirs)
    assert rates_of_ours(schedule(40, kind, **ours), 40) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # SequentialLR does what torch warns of
@given(st.integers(2, 60), st.data())
def test_warmup_and_decay_are_torch_s_linear_and_cosine_one_after_the_other(total: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(2, max(total - 1, 2)), label="warmup")
    found = schedule(total, "linear-warmup-cosine-decay", warmup_updates=warmup)

    def composed(optimizer: SGD) -> LRScheduler:
        rise = torch_schedules.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        fall = torch_schedules.CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1))
        return torch_schedules.SequentialLR(optimizer, [rise, fall], milestones=[warmup])

    expected = rates_of_torch(composed, total)
    assert rates_of_ours(found, total) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rise", [0.1, 0.25, 0.3])
@pytest.mark.parametrize("total", [2, 3, 5, 11])
def test_one_cycle_is_torch_s_in_short_runs_too(total: int, rise: float) -> None:
    expected = rates_of_torch(torch_schedules.OneCycleLR, total - 1, max_lr=LR, total_steps=total, pct_start=rise)
    ours = rates_of_ours(schedule(total, "one-cycle", rise=rise), total - 1)
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)
