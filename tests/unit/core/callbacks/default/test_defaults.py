"""The small default callbacks, one metric or two each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from noether.core.models.composite import CompositeModel
from noether.testing import make_callback, make_counter, make_model, make_trainer

LENGTH = {"total_updates": 10, "updates_per_epoch": 5}


def metrics(callback: Any, update: int = 6) -> dict[str, float]:
    """Return the metrics that the callback logs when its interval fires."""
    callback.periodic_callback(interval_type="update", update_counter=make_counter(update=update))
    found: dict[str, float] = callback.writer.current_metrics()
    callback.writer.discard()
    return found


def callback_of(kind: str, folder: Path, model: Any = None, **settings: Any) -> Any:
    return make_callback({"kind": kind, **settings}, make_trainer(folder), model)


def test_learning_rate_is_that_of_the_last_update(tmp_path: Path) -> None:
    model = make_model(optimizer={"kind": "SGD", "lr": 0.4, "schedule": "linear"})
    model.initialize_optimizer(**LENGTH)
    model.optimizer_schedule_step(5)
    assert metrics(callback_of("lr", tmp_path, model, every_n_updates=1)) == {"optim/lr": pytest.approx(0.2)}


def test_learning_rates_of_a_composite_are_named_by_part_and_clipped_norms_stand_beside_them(tmp_path: Path) -> None:
    model = CompositeModel(
        parts={"a": make_model(), "b": make_model(optimizer={"kind": "SGD", "lr": 0.3, "clip_grad_norm": 1.0})}
    )
    model.initialize_optimizer(**LENGTH)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.get_parameter("b.layers.2.bias").grad = torch.tensor([3.0, 4.0])
    model.optimizer_step()
    assert metrics(callback_of("lr", tmp_path, model, every_n_updates=1)) == {
        "optim/lr/a": 0.1,
        "optim/lr/b": 0.3,
        "optim/grad_norm/b": 5.0,
    }


def test_a_model_without_an_optimizer_has_no_rate(tmp_path: Path) -> None:
    assert metrics(callback_of("lr", tmp_path, every_n_updates=1)) == {}


def test_parameters_are_counted_once_before_training(tmp_path: Path) -> None:
    callback = callback_of("param-count", tmp_path, make_model(frozen=["layers.0.*"]).freeze())
    callback.before_training(update_counter=make_counter())
    assert callback.writer.current_metrics() == {"model/parameters": 26, "model/trainable_parameters": 10}


def test_samples_of_every_data_set_are_counted_before_training(tmp_path: Path) -> None:
    callback = callback_of("dataset-stats", tmp_path)
    callback.before_training(update_counter=make_counter())
    assert callback.writer.current_metrics() == {"data/train/samples": 24, "data/test/samples": 10}


def test_eta_is_silent_before_the_first_update_of_a_session(tmp_path: Path) -> None:
    callback = callback_of("eta", tmp_path, every_n_updates=1)
    assert metrics(callback) == {}
    callback.before_training(update_counter=make_counter(update=6))
    assert metrics(callback, update=6) == {}
    found = metrics(callback, update=7)
    assert found["profiling/updates_per_second"] > 0
    assert found["profiling/remaining_seconds"] > 0


def test_times_are_means_over_the_updates_of_an_interval(tmp_path: Path) -> None:
    callback = callback_of("train-time", tmp_path, every_n_updates=1)
    spent = callback.trainer.seconds
    spent["data_time"] = 5.0
    callback.before_training(update_counter=make_counter(update=10))  # what was spent before does not count
    spent.update(data_time=9.0, forward_time=8.0)
    assert metrics(callback, update=12) == {"profiling/data_time": 2.0, "profiling/forward_time": 4.0}
    spent.update(data_time=9.5)
    assert metrics(callback, update=13) == {"profiling/data_time": 0.5, "profiling/forward_time": 0.0}


def test_peak_memory_of_this_process_is_neither_tiny_nor_huge(tmp_path: Path) -> None:
    (peak,) = metrics(callback_of("peak-memory", tmp_path, every_n_updates=1)).values()
    assert 0.01 < peak < 1000


def test_stability_sees_the_gradients_of_the_update_after_which_it_logs(tmp_path: Path) -> None:
    model = make_model()
    model.initialize_optimizer(**LENGTH)
    callback = callback_of("training-stability", tmp_path, model, every_n_updates=2)
    for update, scale in ((0, 1.0), (1, 3.0)):  # the second of them is the second update
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        callback.before_optimizer_step(update_counter=make_counter(update=update), model=model)
    found = metrics(callback, update=2)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert found["stability/gradient_norm"] == pytest.approx(3 * len(weights) ** 0.5)
    assert found["stability/model_norm"] == pytest.approx(float(weights.norm()))
    assert found["stability/non_finite_gradients"] == 0


def test_stability_counts_what_is_not_finite(tmp_path: Path) -> None:
    model = make_model()
    model.initialize_optimizer(**LENGTH)
    model.get_parameter("layers.2.bias").grad = torch.tensor([float("nan"), float("inf")])
    callback = callback_of("training-stability", tmp_path, model, every_n_updates=1)
    callback.before_optimizer_step(update_counter=make_counter(), model=model)
    assert metrics(callback)["stability/non_finite_gradients"] == 2


def test_stability_logs_the_scale_of_a_gradient_scaler(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, precision="fp16")
    callback = make_callback({"kind": "training-stability", "every_n_updates": 1}, trainer)
    assert metrics(callback) == {"stability/grad_scale": 2.0**16}
