"""The mean training loss of an interval."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.core.callbacks.default.online_loss import OnlineLossCallback
from noether.testing import make_callback, make_counter, make_trainer
from noether.training.trainers.base import BaseTrainer

losses_of_updates = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=4), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> BaseTrainer:
    return make_trainer(tmp_path_factory.mktemp("run"))


def online_loss(trainer: BaseTrainer) -> OnlineLossCallback:
    callback = make_callback({"kind": "online-loss", "every_n_updates": 3}, trainer)
    assert isinstance(callback, OnlineLossCallback)
    return callback


def follow(callback: OnlineLossCallback, updates: list[list[float]]) -> None:
    for steps in updates:
        for step, loss in enumerate(steps):
            callback.track_after_accumulation_step(
                update_counter=make_counter(),
                batch={},
                losses={"total": torch.tensor(loss)},
                update_outputs=None,
                accumulation_steps=len(steps),
                accumulation_step=step,
            )


def logged(callback: OnlineLossCallback) -> float:
    callback.periodic_callback(interval_type="update", update_counter=make_counter())
    value = callback.writer.current("loss/online/total")
    callback.writer.discard()
    return value


@given(losses_of_updates)
def test_the_mean_is_over_all_accumulation_steps(trainer: BaseTrainer, updates: list[list[float]]) -> None:
    callback = online_loss(trainer)
    follow(callback, updates)
    flat = [loss for steps in updates for loss in steps]
    assert logged(callback) == pytest.approx(sum(flat) / len(flat), rel=1e-12, abs=1e-12)


def test_each_interval_starts_anew(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    follow(callback, [[1.0], [2.0]])
    assert logged(callback) == 1.5
    follow(callback, [[7.0]])
    assert logged(callback) == 7.0


def test_without_updates_nothing_is_logged(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    callback.periodic_callback(interval_type="update", update_counter=make_counter())
    assert callback.writer.keys() == []


def test_a_long_interval_keeps_few_tensors_and_loses_no_precision(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    follow(callback, [[0.1]] * 5000)
    assert callback._steps.held < 1000
    assert logged(callback) == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


def test_a_loss_that_is_there_now_and_then_is_averaged_over_its_own_steps(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    for step, losses in enumerate([{"total": 1.0}, {"total": 3.0, "extra": 5.0}]):
        callback.track_after_accumulation_step(
            losses={name: torch.tensor(value) for name, value in losses.items()},
            accumulation_steps=2,
            accumulation_step=step,
        )
    callback.periodic_callback(interval_type="update", update_counter=make_counter())
    assert callback.writer.current_metrics() == {"loss/online/total": 2.0, "loss/online/extra": 5.0}
    callback.writer.discard()


@given(losses_of_updates, losses_of_updates)
def test_a_resumed_interval_ends_with_the_same_mean(
    trainer: BaseTrainer, before: list[list[float]], after: list[list[float]]
) -> None:
    straight, first, second = (online_loss(trainer) for _ in range(3))
    follow(straight, before)
    follow(first, before)
    state: Any = first.state_dict()
    straight.state_dict()  # a checkpoint on the way changes nothing
    second.load_state_dict(state)
    follow(straight, after)
    follow(second, after)
    assert logged(second) == logged(straight)


def test_between_intervals_there_is_no_state(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    follow(callback, [[1.0]])
    logged(callback)
    assert callback.state_dict() is None


@pytest.mark.parametrize(("named", "key"), [({}, "loss/online/total"), ({"id": "often"}, "loss/online/total/often")])
def test_the_key_names_no_interval_and_the_id_of_a_callback_of_the_spec(
    tmp_path: Path, named: dict[str, str], key: str
) -> None:
    made = make_trainer(tmp_path)
    callback = make_callback({"kind": "online-loss", "every_n_epochs": 2, **named}, made)
    follow(callback, [[1.0]])
    callback.periodic_callback(interval_type="epoch", update_counter=make_counter())
    assert made.log_writer.keys() == [key]


def follow_on_device(
    callback: OnlineLossCallback, trainer: BaseTrainer, updates: list[tuple[list[float], bool]]
) -> None:
    """Follow updates whose verdicts are on the device."""
    for losses, applied in updates:
        trainer.one_update.verdict = torch.tensor(float(applied))
        follow(callback, [losses])
    trainer.one_update.verdict = None


@given(st.lists(st.tuples(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=3), st.booleans()), min_size=1))
def test_updates_that_the_device_has_masked_do_not_count(
    trainer: BaseTrainer, updates: list[tuple[list[float], bool]]
) -> None:
    callback = online_loss(trainer)
    broken = [(losses if applied else [*losses[:-1], math.nan], applied) for losses, applied in updates]
    follow_on_device(callback, trainer, [([2.0], True), *broken])
    flat = [2.0] + [loss for losses, applied in updates if applied for loss in losses]
    assert logged(callback) == pytest.approx(sum(flat) / len(flat), rel=1e-12, abs=1e-12)


def test_an_interval_of_masked_updates_logs_nothing_and_has_no_state(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    follow_on_device(callback, trainer, [([math.nan], False), ([1.0, math.inf], False)])
    assert callback.state_dict() is None
    callback.periodic_callback(interval_type="update", update_counter=make_counter())
    assert callback.writer.keys() == []


def test_looked_at_and_masked_updates_have_one_mean(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    follow(callback, [[1.0]])
    follow_on_device(callback, trainer, [([3.0], True), ([9.0], False)])
    second = online_loss(trainer)
    second.load_state_dict(callback.state_dict() or {})
    assert logged(callback) == logged(second) == 2.0


def test_the_steps_before_a_masked_update_is_known_to_be_one_do_not_count(trainer: BaseTrainer) -> None:
    callback = online_loss(trainer)
    arguments: dict[str, Any] = {"update_counter": make_counter(), "batch": {}, "update_outputs": None}
    for loss in (100.0, 200.0):  # of three; the last one is not finite, so that nobody is told of it
        callback.track_after_accumulation_step(
            losses={"total": torch.tensor(loss)}, accumulation_steps=3, accumulation_step=loss == 200.0, **arguments
        )
    follow(callback, [[1.0, 2.0, 3.0]])
    assert logged(callback) == 2.0
