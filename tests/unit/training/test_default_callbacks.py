"""Callbacks that a run adds by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.testing import make_model, make_trainer
from noether.training.default_callbacks import PRODUCERS, default_configs, default_intervals
from noether.training.trainers.weighted_loss import WeightedLossTrainerConfig


def config(**settings: Any) -> WeightedLossTrainerConfig:
    table = {"kind": "weighted-loss", "max_epochs": 1, "effective_batch_size": 4, "field_weights": {"y": 1.0}}
    return WeightedLossTrainerConfig.model_validate({**table, **settings})


@given(st.integers(0, 10**7))
def test_without_intervals_a_run_of_any_length_logs_now_and_then_but_not_too_often(updates: int) -> None:
    found = default_intervals(config(), updates)
    log, track = found["log"]["every_n_updates"], found["track"]["every_n_updates"]
    assert 1 <= track <= log
    assert updates // log <= 200
    assert updates // track <= 1000
    assert updates == 0 or updates // track >= 1


def test_a_run_of_three_updates_logs_each_of_them() -> None:
    assert default_intervals(config(), 3) == {"log": {"every_n_updates": 1}, "track": {"every_n_updates": 1}}


def test_intervals_of_the_spec_win() -> None:
    found = default_intervals(config(log_every_n_epochs=2, track_every_n_samples=100), 10**6)
    assert found == {"log": {"every_n_epochs": 2}, "track": {"every_n_samples": 100}}


def kinds(**settings: Any) -> list[str]:
    made = config(**settings)
    return [found.kind for found in default_configs(made, default_intervals(made, 1000))]


def test_defaults_are_the_documented_ones() -> None:
    assert set(kinds()) == {
        "online-loss", "lr", "dataset-stats", "param-count", "progress", "train-time", "peak-memory", "eta",
    }  # fmt: skip


def test_producers_come_first() -> None:
    assert kinds()[: len(PRODUCERS)] == list(PRODUCERS)


@pytest.mark.parametrize(("settings", "interval"), [({}, 2), ({"monitor_interval": 7}, 7)])
def test_stability_is_watched_where_asked_for_at_its_own_interval(settings: dict[str, int], interval: int) -> None:
    made = config(monitor_training_stability=True, **settings)
    last = default_configs(made, default_intervals(made, 1000))[-1]
    assert (last.kind, last.every_n_updates) == ("training-stability", interval)
    assert "training-stability" not in kinds()


def order(folder: Path, **settings: Any) -> list[str]:
    user = [{"kind": "checkpoint", "every_n_epochs": 1}]
    trainer = make_trainer(folder, callbacks=user, **settings)
    return [found.component.kind for found in trainer.get_all_callbacks(make_model())]


def test_the_user_s_callbacks_stand_between_producers_and_reporters(tmp_path: Path) -> None:
    found = order(tmp_path, add_default_callbacks=True)
    assert found[:3] == ["online-loss", "lr", "checkpoint"]
    assert "progress" in found[3:]


def test_defaults_can_be_turned_off(tmp_path: Path) -> None:
    assert order(tmp_path, add_default_callbacks=False) == ["checkpoint"]
