"""A component that breaks a promise of its role fails the test of its contract that is named after the promise."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field

import noether
from noether.config.components import CallBackBaseConfig, TransformBaseConfig
from noether.core.callbacks import CallbackBase, PeriodicCallback
from noether.data.dataset import InMemoryDataset
from noether.data.transforms import Transform
from noether.errors import NoetherError
from noether.optim.schedules import Schedule
from noether.testing import (
    CallbackContract,
    DatasetContract,
    LossContract,
    ModelContract,
    ScheduleContract,
    TrainerContract,
    TransformContract,
)
from noether.testing.builders import graphs_on_cpu, merged, tiny_spec
from noether.testing.contract import Contract
from noether.training.trainers import BaseTrainer, WeightedLossTrainer

EVERY = {"every_n_updates": 1}


class ChangesWeights(PeriodicCallback):
    """Changes the model that it only follows."""

    def periodic_callback(self, **_: Any) -> None:
        next(self.model.parameters()).add_(0.1)


class Forgets(PeriodicCallback):
    """Counts without a state, and logs the count."""

    seen = 0

    def periodic_callback(self, **_: Any) -> None:
        self.seen += 1
        self.writer.add_scalar("seen", self.seen)


class LosesState(Forgets):
    """Takes nothing back."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}


class NeverCalled(CallbackBase):
    """Misspells its hook."""

    def after_every_single_update(self, **_: Any) -> None: ...


class Slow(CallbackBase):
    """Takes a millisecond at every update."""

    def track_after_update_step(self, **_: Any) -> None:
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass


class UndescribedConfig(CallBackBaseConfig):
    """An option without a description, one that cannot be unset."""

    power: float = 2.0
    limit: float | None = Field(1.0, description="The limit.")


class Undescribed(PeriodicCallback):
    """Has those options."""

    def __init__(self, callback_config: UndescribedConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)

    def periodic_callback(self, **_: Any) -> None: ...


class Undocumented(PeriodicCallback):
    def periodic_callback(self, **_: Any) -> None: ...


class ScalesConfig(TransformBaseConfig):
    """No options."""


class Scales(Transform):
    """Says that it inverts, and does not; changes its sample."""

    deterministic = True

    def __init__(self, transform_config: ScalesConfig) -> None:
        super().__init__(transform_config)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        sample["x"] *= 2
        return sample

    def inverts(self, name: str) -> bool:
        return name == "x"


class Drawn(InMemoryDataset):
    """Says that its samples are always the same, and draws them; gathers other samples than it has."""

    def __init__(self) -> None:
        super().__init__({"x": torch.rand(24, 3), "y_target": torch.rand(24, 2)})

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**super().__getitem__(index), "x": torch.rand(3)}


class Remembers(Schedule):
    """Depends on how often it was asked."""

    asked = 0

    def factor(self, update: int) -> float:
        self.asked += 1
        return 1 / self.asked


class Unsteady(torch.nn.Module):
    """Draws numbers in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.layer(x) + torch.rand(2)}


class CountsCalls(WeightedLossTrainer):
    """Divides its loss by the number of its calls, evaluations among them."""

    calls = 0

    def loss_compute(self, forward_output: Any, targets: Any) -> Any:
        self.calls += 1
        losses = super().loss_compute(forward_output, targets)
        return {name: loss / self.calls for name, loss in losses.items()}


class Squares(BaseTrainer):
    """Has no option of its own."""

    def loss_compute(self, forward_output: Any, targets: Any) -> Any:
        return (forward_output["y"] - targets["y_target"]).square().mean()


def not_a_number(input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return NaN."""
    return (input - target).mean() * float("nan")


BROKEN: list[tuple[type[Contract], Any, dict[str, Any], str]] = [
    (CallbackContract, ChangesWeights, EVERY, "test_training_is_the_same_without_it"),
    (CallbackContract, Forgets, EVERY, "test_a_resumed_run_equals_a_straight_one"),
    (CallbackContract, LosesState, EVERY, "test_it_takes_back_the_state_that_it_returned"),
    (CallbackContract, NeverCalled, {}, "test_it_implements_a_hook"),
    (CallbackContract, Slow, {}, "test_hooks_of_every_update_are_cheap"),
    (CallbackContract, Undescribed, EVERY, "test_each_option_has_a_description"),
    (CallbackContract, Undescribed, EVERY, "test_an_option_that_may_be_unset_is_unset_by_default"),
    (CallbackContract, Undocumented, EVERY, "test_its_kind_names_an_object_of_the_role"),
    (TransformContract, Scales, {}, "test_its_inverse_undoes_it"),
    (TransformContract, Scales, {}, "test_it_leaves_its_sample_alone"),
    (DatasetContract, Drawn, {}, "test_a_deterministic_sample_is_always_the_same"),
    (DatasetContract, Drawn, {}, "test_a_batch_has_the_samples"),
    (ScheduleContract, Remembers, {}, "test_it_is_a_pure_function_of_the_update"),
    (ModelContract, Unsteady, {}, "test_evaluation_is_repeatable"),
    (TrainerContract, CountsCalls, {}, "test_an_evaluation_leaves_it_alone"),
    (LossContract, not_a_number, {}, "test_it_has_a_finite_gradient"),
]


@pytest.mark.parametrize(
    ("contract", "broken", "options", "test"), BROKEN, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_broken_promise_fails_its_test(
    noether_registry, tmp_path: Path, contract: type[Contract], broken: Any, options: dict[str, Any], test: str
):
    noether_registry(contract.role, "broken", broken)
    tested = type("Tested", (contract,), {"config": {"kind": "broken", **options}})()
    with pytest.raises((AssertionError, NoetherError)):
        call(tested, test, tmp_path)


class Sound(PeriodicCallback):
    """Keeps every promise."""

    def periodic_callback(self, *, update_counter: Any, **_: Any) -> None:
        self.writer.add_scalar("sound", update_counter.update)


@pytest.mark.parametrize("test", sorted({test for contract, *_, test in BROKEN if contract is CallbackContract}))
def test_a_sound_callback_passes_the_same_tests(noether_registry, tmp_path: Path, test: str):
    noether_registry("callback", "sound", Sound)
    call(type("Tested", (CallbackContract,), {"config": {"kind": "sound", **EVERY}})(), test, tmp_path)


def test_a_trainer_without_the_options_of_the_tiny_one_needs_its_kind_alone(noether_registry, tmp_path: Path):
    noether_registry("trainer", "squares", Squares)
    tested = type("Tested", (TrainerContract,), {"config": "squares"})()
    call(tested, "test_its_losses_are_logged_by_name", tmp_path)


def call(tested: Contract, test: str, folder: Path) -> None:
    given = {"tmp_path": folder, "record_property": lambda name, value: None}
    method = getattr(tested, test)
    method(**{name: given[name] for name in method.__annotations__ if name in given})


def test_the_tiny_spec_of_the_contracts_trains_by_graphs(tmp_path: Path) -> None:
    with graphs_on_cpu() as device:
        noether.run(merged(tiny_spec(), {"trainer": {"update": "graph"}, "output": str(tmp_path)}), quiet=True)
    assert device.calls.count("replay") > 6
