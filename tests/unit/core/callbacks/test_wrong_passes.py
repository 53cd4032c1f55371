"""A pass that is impossible is refused before the first update, with the callback's id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.errors import DataError, TrainingError
from noether.kernel.entries import Component
from noether.testing import make_data, make_model, make_trainer
from noether.training.trainers.base import BaseTrainer


class Counts(PeriodicDataIteratorCallback):
    """Counts the samples of its passes."""

    seen = 0

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> int:
        return len(batch["x"])

    def process_results(self, results: Tensor, **_: Any) -> None:
        self.seen += int(results.sum())


class ChangesItsMind(Counts):
    """Acts more often than at its interval."""

    def track_after_update_step(self, **_: Any) -> None:
        self.every_n_updates = 1


class NeverSays(PeriodicDataIteratorCallback):
    """Goes through data, but has no process_results."""

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> int:
        return 1


def trainer_with(folder: Path, callback: type = Counts, test_samples: int = 10, **settings: Any) -> BaseTrainer:
    config = PeriodicDataIteratorCallbackConfig(kind="counts", **{"id": "mine", "dataset_key": "test", **settings})
    config._component = Component("callback", "counts", callback, None)
    return make_trainer(folder, data=make_data(test_samples=test_samples), callbacks=[config])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_key": "tset"}, "Did you mean 'test'?"),
        ({"test_samples": 0}, "the data set 'test' is empty"),
        ({"properties": ["x", "y_targt"]}, "Did you mean 'y_target'"),
    ],
    ids=["missing data set", "empty data set", "unknown property"],
)
def test_a_pass_that_cannot_be_is_refused_before_the_first_update(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trainer = trainer_with(tmp_path, every_n_updates=2, **settings)
    with pytest.raises(DataError) as caught:
        trainer.train(make_model())
    assert message in caught.value.message
    assert trainer.update_counter.update == 0
    assert "callback 'mine'" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


@pytest.mark.parametrize("field", ["max_size", "batch_size", "every_n_epochs", "every_n_updates", "every_n_samples"])
def test_numbers_below_one_are_refused_by_the_config(field: str) -> None:
    with pytest.raises(ValidationError) as error:
        PeriodicDataIteratorCallbackConfig(**{field: 0})
    assert [(found["loc"], found["type"]) for found in error.value.errors()] == [((field,), "greater_than_equal")]


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"every_n_samples": 10}, 4 * 10),  # 12 updates of 4 samples: floor(sample / 10) grows four times
        ({"every_n_samples": 3}, 12 * 10),  # below the batch: once an update
        ({"every_n_samples": 16, "every_n_epochs": 1}, 5 * 10),
        ({"max_size": 1000, "every_n_epochs": 1}, 2 * 10),
        ({"max_size": 3, "every_n_epochs": 1}, 2 * 3),
        ({}, 0),
    ],
    ids=str,
)
def test_a_callback_with_any_intervals_gets_all_its_passes(settings: dict[str, int], seen: int, tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, **settings)
    trainer.train(make_model())
    (callback,) = trainer.callbacks
    assert isinstance(callback, Counts)
    assert callback.seen == seen


def test_reading_outside_of_its_intervals_names_the_callback(tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, ChangesItsMind, every_n_updates=6)
    with pytest.raises(TrainingError) as caught:
        trainer.train(make_model())
    assert "callback 'mine'" in "\n".join(caught.value.__notes__)


def test_a_pass_without_process_results_says_what_to_define(tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, NeverSays, every_n_updates=6)
    with pytest.raises(NotImplementedError) as error:
        trainer.train(make_model())
    assert "NeverSays" in str(error.value)
    assert "process_results" in str(error.value)
