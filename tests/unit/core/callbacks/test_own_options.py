"""A data-set callback with an option of its own: the right way, and the wrong ones that are told apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, Field
from torch import Tensor

import noether
from noether.core.callbacks import CallBackBaseConfig, PeriodicDataIteratorCallback, PeriodicDataIteratorCallbackConfig
from noether.errors import NoetherError, SpecError
from noether.spec.errors.problem import problems_in
from noether.spec.load import load_spec
from noether.testing.builders import tiny_spec


class Mean(PeriodicDataIteratorCallback):
    """Logs the mean of the targets, scaled."""

    scale = 1.0

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> Tensor:
        return batch["y_target"]

    def process_results(self, results: Tensor, **_: Any) -> None:
        self.writer.add_scalar("mean", results.mean() * self.scale)


class ScaledConfig(PeriodicDataIteratorCallbackConfig):
    scale: float = Field(1.0, description="Factor.")


class Scaled(Mean):
    def __init__(self, callback_config: ScaledConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.scale = callback_config.scale


class WithoutADataSetConfig(CallBackBaseConfig):
    scale: float = Field(1.0, description="Factor.")


class OfAnotherBase(Mean):
    def __init__(self, callback_config: WithoutADataSetConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)


class PlainConfig(BaseModel):
    scale: float = Field(1.0, description="Factor.")


class OfPydanticAlone(Mean):
    def __init__(self, callback_config: PlainConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)


class Unannotated(Mean):
    def __init__(self, callback_config, **kwargs):
        super().__init__(callback_config, **kwargs)


class Keyword(Mean):
    def __init__(self, *, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class NotInitialised(Mean):
    def __init__(self, callback_config: ScaledConfig, **kwargs: Any) -> None:
        self.scale = callback_config.scale


class TakesGradients(Mean):
    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> Tensor:
        x = batch["x"].requires_grad_()
        return torch.autograd.grad(trainer_model(x=x)["y"].sum(), x)[0]


class EnablesGradients(TakesGradients):
    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> Tensor:
        with torch.enable_grad():
            return super().process_data(batch, trainer_model=trainer_model)


@pytest.fixture
def spec_with(noether_registry: Callable[..., None]) -> Callable[..., dict[str, Any]]:
    """Return the tiny spec with a callback of a class, registered under its name, and its options."""

    def spec(callback: type, **options: Any) -> dict[str, Any]:
        kind = callback.__name__.lower()
        noether_registry("callback", kind, callback)
        mine = {"kind": kind, "every_n_epochs": 1, "dataset_key": "test", **options}
        return tiny_spec(trainer={"callbacks": [mine]})

    return spec


def run(spec: dict[str, Any], folder: Path) -> noether.Outcome:
    return noether.run({**spec, "output": str(folder)}, quiet=True)


def test_an_option_is_a_field_of_a_config_that_derives_from_that_of_data_set_callbacks(spec_with, tmp_path: Path):
    spec = spec_with(Scaled, scale=3.0)
    thrice = run(spec, tmp_path).metrics["mean"]
    del spec["trainer"]["callbacks"][0]["scale"]
    assert thrice == pytest.approx(3 * run(spec, tmp_path).metrics["mean"])


@pytest.mark.parametrize(
    ("callback", "code", "part"),
    [
        (OfAnotherBase, "unusable-kind", "(PeriodicDataIteratorCallbackConfig)"),
        (OfPydanticAlone, "unusable-kind", ".PeriodicDataIteratorCallbackConfig"),
        (Unannotated, "unknown-key", "UnannotatedConfig(PeriodicDataIteratorCallbackConfig)"),
        (Keyword, "unknown-key", "KeywordConfig(PeriodicDataIteratorCallbackConfig)"),
        (Mean, "unknown-key", "MeanConfig(PeriodicDataIteratorCallbackConfig)"),
    ],
)
def test_a_wrong_way_is_refused_with_the_class_to_derive_from(spec_with, callback: type, code: str, part: str):
    with pytest.raises(SpecError) as caught:
        load_spec(spec_with(callback, scale=2.0))
    (problem,) = problems_in(caught.value)
    assert problem.code == code
    assert part in (problem.hint or "")


def test_an_option_of_a_built_in_callback_is_only_unknown():
    mine = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test", "scale": 2.0}
    with pytest.raises(SpecError) as caught:
        load_spec(tiny_spec(trainer={"callbacks": [mine]}))
    (problem,) = problems_in(caught.value)
    assert "class " not in (problem.hint or "")


def test_a_constructor_that_does_not_call_its_base_is_named_before_training(spec_with, tmp_path: Path):
    with pytest.raises(SpecError, match=NotInitialised.__name__):
        run(spec_with(NotInitialised), tmp_path)


def test_gradients_in_an_evaluation_are_refused_with_the_way_to_take_them(spec_with, tmp_path: Path):
    refused = run(spec_with(TakesGradients), tmp_path).error
    assert isinstance(refused, NoetherError)
    assert "torch.enable_grad" in (refused.hint or "")
    assert run(spec_with(EnablesGradients), tmp_path).error is None
