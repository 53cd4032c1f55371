"""An update that is not applied leaves the buffers of the model as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.data.samplers import TRAINING, TaggedBatch
from noether.training.buffers import KeptBuffers
from noether.training.nonfinite import DeviceGuard, FiniteGuard
from noether.training.trainers.types import TrainerResult
from noether.training.update import Precision, Update


class InPlace(nn.Module):
    """Follows its input with buffers of several types, also past the version counter, as codebooks do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("uses", torch.zeros(3, dtype=torch.int64))
        self.register_buffer("hidden", torch.ones(2, 3), persistent=False)
        self.register_buffer("phase", torch.ones(3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        self.uses += 1
        self.hidden.data.mul_(0.9).add_(x.detach()[:2])
        self.phase.data.mul_(1j)
        return x


class Replaced(nn.Module):
    """Assigns a new tensor to its buffer, which begins as None."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running", None)
        self.running: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        now = x.detach().mean(0)
        self.running = now if self.running is None else 0.9 * self.running + 0.1 * now
        return x


class Grows(nn.Module):
    """Keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, 3))
        self.register_buffer("resized", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x.detach()])
        self.resized.resize_(len(self.resized) + 1).fill_(x.detach().sum())
        return x


class Model(ModelBase):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(ModelBaseConfig(kind="Model", optimizer={"kind": "AdamW", "lr": 0.1}))
        torch.manual_seed(0)
        self.parts = nn.Sequential(*parts, nn.Linear(3, 2))
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)


def spectral() -> nn.Module:
    torch.manual_seed(1)
    return nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))


PARTS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm1d(3),
    "frozen batch norm": lambda: nn.BatchNorm1d(3).eval(),
    "spectral norm": spectral,
    "in place": InPlace,
    "replaced": Replaced,
    "grows": Grows,
}
GUARDS: dict[str, type[FiniteGuard]] = {"the host looks": FiniteGuard, "masked on the device": DeviceGuard}
GOOD = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
BAD = GOOD.clone()
BAD[5] = torch.nan


def step(batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
    return TrainerResult(model(batch["x"]).square().mean())


def updated(
    model: ModelBase, guard: type[FiniteGuard], *batches: Tensor, steps: int = 1, precision: str = "fp32"
) -> None:
    if not model.optimizers():
        model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    update = Update(
        step,
        Precision(precision, torch.device("cpu")),
        guard(skip=True, max_in_a_row=9),
        accumulation_steps=steps,
    )
    update.begin(model, model)
    stream = iter([TaggedBatch(TRAINING, 0, {"x": part}) for batch in batches for part in batch.chunk(steps)])
    for _ in batches:
        update(stream)


def state(model: nn.Module) -> dict[str, Any]:
    return {
        **{name: value.clone() for name, value in model.named_buffers()},
        **{name: value.clone() for name, value in model.named_parameters()},
    }


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("bad_at", [0, 1, 3])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_skipped_update_leaves_what_a_run_without_it_has(
    part: Callable[[], nn.Module], bad_at: int, steps: int, guard: type[FiniteGuard]
) -> None:
    with_bad, without = Model(part()), Model(part())
    updates = [GOOD, 2 * GOOD, GOOD - 1, 3 * GOOD]
    updated(without, guard, *updates, steps=steps)
    updated(with_bad, guard, *updates[:bad_at], BAD, *updates[bad_at:], steps=steps)
    found, expected = state(with_bad), state(without)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_a_run_that_ends_with_the_first_non_finite_update_copies_no_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[KeptBuffers] = []
    monkeypatch.setattr(KeptBuffers, "keep", lambda self: kept.append(self) or True)
    for skip in (False, True):
        model = Model(nn.BatchNorm1d(3))
        model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
        update = Update(step, Precision("fp32", torch.device("cpu")), FiniteGuard(skip=skip, max_in_a_row=9))
        update.begin(model, model)
        update(iter([TaggedBatch(TRAINING, 0, {"x": GOOD})]))
        assert bool(kept) is skip


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_an_overflow_of_the_gradient_scaler_leaves_nothing_either(guard: type[FiniteGuard]) -> None:
    model = Model(nn.BatchNorm1d(3))
    model.parts[1].weight.register_hook(lambda gradient: gradient * torch.inf)
    before = state(model)
    updated(model, guard, GOOD, precision="fp16")
    assert all(torch.equal(before[name], value) for name, value in state(model).items())


def test_what_changes_between_updates_is_not_taken_back() -> None:
    model = Model(nn.BatchNorm1d(3))
    kept = KeptBuffers(model)
    assert kept.keep()
    model.table.fill_(7.0)
    kept.keep()
    model.table.add_(1.0)
    kept.put_back()
    assert (model.table == 7.0).all()


def test_a_model_without_buffers_is_looked_at_twice_and_no_more() -> None:
    kept = KeptBuffers(nn.Linear(3, 3))
    assert [kept.keep(), kept.keep()] == [True, False]


def test_the_gradient_norm_of_a_skipped_update_is_its_own() -> None:
    model = Model(nn.BatchNorm1d(3))
    model.optimizer_config = model.optimizer_config.model_copy(update={"clip_grad_norm": 1.0})
    updated(model, FiniteGuard, GOOD)
    (optimizer,) = model.optimizers().values()
    assert optimizer.last_grad_norm.isfinite()
    updated(model, FiniteGuard, BAD)
    assert not optimizer.last_grad_norm.isfinite()
