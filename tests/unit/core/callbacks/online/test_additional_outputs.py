"""Outputs of the train step, as metrics and as files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from noether.checkpoint.state_tree import join_state, split_state
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.online import TrackAdditionalOutputsCallback, TrackAdditionalOutputsCallbackConfig
from noether.errors import StorageError, TrainingError
from noether.testing import make_callback, make_counter, make_model, make_trainer
from noether.training.trainers.base import BaseTrainer

values = st.floats(-100, 100, width=32)
steps = st.lists(values, max_size=6)


MODEL = make_model()  # none of the callbacks here looks at it


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> BaseTrainer:
    return make_trainer(tmp_path_factory.mktemp("run"))


def tracker_of(trainer: BaseTrainer, **settings: Any) -> TrackAdditionalOutputsCallback:
    table = {"kind": "track-additional-outputs", "every_n_updates": 50, **settings}
    callback = make_callback(table, trainer, MODEL)
    assert isinstance(callback, TrackAdditionalOutputsCallback)
    return callback


def follow(callback: TrackAdditionalOutputsCallback, outputs: Sequence[dict[str, Any] | None]) -> None:
    """Hand the outputs of accumulation steps to the callback, as the loop does."""
    for step in outputs:
        tensors = step and {name: torch.as_tensor(value) for name, value in step.items()}
        callback.track_after_accumulation_step(
            update_counter=make_counter(), batch={}, losses={}, update_outputs=tensors, accumulation_steps=1
        )


def logged(callback: TrackAdditionalOutputsCallback, *, update: int = 50) -> dict[str, float]:
    callback.periodic_callback(interval_type="update", update_counter=make_counter(update=update))
    found = callback.writer.current_metrics()
    callback.writer.discard()
    return found


def files_of(callback: TrackAdditionalOutputsCallback) -> dict[str, dict[str, Tensor]]:
    assert callback.out is not None
    return {path.name: load_file(path) for path in sorted(callback.out.iterdir())}


@given(st.lists(values, min_size=1, max_size=8))
def test_the_mean_is_over_all_accumulation_steps_of_the_interval(trainer: BaseTrainer, steps: list[float]) -> None:
    callback = tracker_of(trainer, keys=["surface"])
    follow(callback, [{"surface": value} for value in steps])
    mean = sum(steps) / len(steps)
    assert logged(callback) == {"surface": pytest.approx(mean, rel=1e-6, abs=1e-6)}
    assert logged(callback) == {}


@pytest.mark.parametrize("save_output", [False, True])
def test_last_is_the_value_of_the_last_step(tmp_path: Path, save_output: bool) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["surface"], reduce="last", save_output=save_output)
    follow(callback, [{"surface": 1.0}, {"surface": 7.0}, {"surface": 3.0}])
    assert logged(callback) == {"surface": 3.0}


@pytest.mark.parametrize("save_output", [False, True])
def test_of_an_output_that_is_no_scalar_the_mean_of_each_step_counts_the_same(
    tmp_path: Path, save_output: bool
) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["field"], save_output=save_output)
    follow(callback, [{"field": [1.0, 3.0]}, {"field": [8, 8, 8, 8]}])
    assert logged(callback) == {"field": 5.0}


@pytest.mark.parametrize(
    ("settings", "tracked"),
    [
        ({"keys": ["a_loss"]}, {"a_loss"}),
        ({"patterns": ["loss"]}, {"a_loss", "loss_b"}),
        ({"keys": ["a_loss", "other"], "patterns": ["loss", "a_"]}, {"a_loss", "loss_b", "other"}),
        ({"patterns": ["no such"]}, set()),
    ],
    ids=["by key", "by pattern", "by both", "by none"],
)
def test_outputs_are_tracked_once_by_exact_keys_and_by_patterns_in_their_names(
    trainer: BaseTrainer, settings: dict[str, list[str]], tracked: set[str]
) -> None:
    callback = tracker_of(trainer, **settings)
    follow(callback, [{"a_loss": 1.0, "loss_b": 1.0, "other": 1.0}])
    assert all(len(values) == 1 for values in callback.tracked_values.values())
    assert logged(callback).keys() == tracked


def test_a_missing_output_is_reported_with_the_returned_ones(trainer: BaseTrainer) -> None:
    callback = tracker_of(trainer, keys=["surface_los"])
    with pytest.raises(TrainingError) as error:
        follow(callback, [{"surface_loss": 1.0, "other": 2.0}])
    assert "'surface_loss', 'other'. Did you mean 'surface_loss'?" in error.value.message


@pytest.mark.parametrize("outputs", [None, {}])
def test_a_trainer_that_returns_no_outputs_gets_a_hint(trainer: BaseTrainer, outputs: Any) -> None:
    with pytest.raises(TrainingError) as error:
        follow(tracker_of(trainer, keys=["surface"]), [outputs])
    assert 'return losses, {"surface": …}' in str(error.value.hint)


def test_patterns_may_match_in_some_steps_only(trainer: BaseTrainer) -> None:
    callback = tracker_of(trainer, patterns=["loss"])
    follow(callback, [None, {"loss_a": 4.0}, {"other": 1.0}, {"loss_a": 2.0}])
    assert logged(callback) == {"loss_a": 3.0}


def test_patterns_that_match_nothing_are_reported_once(trainer: BaseTrainer, caplog: pytest.LogCaptureFixture) -> None:
    callback = tracker_of(trainer, patterns=["los_"])
    callback.periodic_callback(interval_type="eval", update_counter=make_counter())
    assert not caplog.records
    for _ in range(2):
        follow(callback, [{"loss_a": 1.0}])
        logged(callback)
    (record,) = caplog.records
    assert "contains one of its patterns 'los_'; the last train step returned 'loss_a'" in record.getMessage()


@pytest.mark.parametrize("reduce", ["mean", "last"])
@pytest.mark.parametrize("save_output", [False, True])
def test_what_is_changed_in_place_later_keeps_the_value_of_its_step(
    tmp_path: Path, save_output: bool, reduce: str
) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["weight"], save_output=save_output, reduce=reduce)
    weight = torch.tensor(1.0)
    follow(callback, [{"weight": weight}])
    weight.fill_(5.0)
    assert logged(callback) == {"weight": 1.0}


def test_a_long_interval_keeps_few_tensors_and_loses_no_precision(trainer: BaseTrainer) -> None:
    callback = tracker_of(trainer, keys=["surface"])
    follow(callback, [{"surface": 0.1}] * 5000)
    assert len(callback.tracked_values["surface"]) < 300
    assert logged(callback) == {"surface": pytest.approx(float(torch.tensor(0.1)), rel=1e-12)}


def test_only_the_last_value_is_kept_where_no_other_is_used(trainer: BaseTrainer) -> None:
    callback = tracker_of(trainer, keys=["surface"], reduce="last")
    follow(callback, [{"surface": step} for step in range(600)])
    assert len(callback.tracked_values["surface"]) == 1
    assert logged(callback) == {"surface": 599.0}


@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_updates_that_the_device_did_not_apply_do_not_count(tmp_path: Path, reduce: str) -> None:
    made = make_trainer(tmp_path)
    callback = tracker_of(made, keys=["x"], reduce=reduce)
    for value, applied in ((4.0, 1.0), (2.0, 1.0), (float("nan"), 0.0)):
        made.one_update.verdict = torch.tensor(applied)
        follow(callback, [{"x": value}])
    assert logged(callback) == {"x": 3.0 if reduce == "mean" else 2.0}


def test_the_device_is_asked_now_and_then_so_that_few_steps_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_trainer(tmp_path)
    callback = tracker_of(made, keys=["x"])
    asked: list[int] = []
    read = callback._steps.read
    monkeypatch.setattr(callback._steps, "read", lambda: asked.append(callback._steps.held) or read())
    made.one_update.verdict = torch.tensor(1.0)
    follow(callback, [{"x": 1.0}] * 1000)
    assert callback._steps.held < 300
    assert len(asked) < 10


def test_the_state_holds_what_only_the_device_knows_to_be_applied(tmp_path: Path) -> None:
    made = make_trainer(tmp_path)
    callback, resumed = (tracker_of(made, keys=["x"]) for _ in range(2))
    for value, applied in ((4.0, 1.0), (9.0, 0.0)):
        made.one_update.verdict = torch.tensor(applied)
        follow(callback, [{"x": value}])
    state = callback.state_dict()
    assert state is not None
    resumed.load_state_dict(state)
    assert logged(resumed) == logged(callback) == {"x": 4.0}


@given(steps, steps, st.sampled_from(["mean", "last"]))
def test_a_resumed_interval_ends_with_the_same_value(
    trainer: BaseTrainer, before: list[float], after: list[float], reduce: str
) -> None:
    straight, first, second = (tracker_of(trainer, keys=["x"], reduce=reduce) for _ in range(3))
    follow(straight, [{"x": value} for value in before + after])
    follow(first, [{"x": value} for value in before])
    state = first.state_dict()
    assert (state is None) == (not before)
    if state is not None:
        second.load_state_dict(join_state(*split_state(state, "it")))
    follow(second, [{"x": value} for value in after])
    assert logged(second) == logged(straight)


def test_a_file_an_interval_holds_all_steps_of_each_output(tmp_path: Path) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["field", "surface/loss"], save_output=True, id="best/outputs")
    follow(callback, [{"field": [[1.0, 2.0]], "surface/loss": 3.0}, {"field": [[4.0, 5.0]], "surface/loss": 6.0}])
    logged(callback, update=50)
    follow(callback, [{"field": [[7.0, 8.0]], "surface/loss": 9.0}])
    logged(callback, update=100)
    assert callback.out == tmp_path / "test-run/outputs/best/outputs"
    files = files_of(callback)
    assert list(files) == ["E16_U100_S400.safetensors", "E8_U50_S200.safetensors"]
    assert files["E8_U50_S200.safetensors"]["field"].tolist() == [[[1.0, 2.0]], [[4.0, 5.0]]]
    assert files["E8_U50_S200.safetensors"]["surface/loss"].tolist() == [3.0, 6.0]
    assert files["E16_U100_S400.safetensors"]["field"].tolist() == [[[7.0, 8.0]]]


def test_outputs_whose_shape_changes_are_saved_step_by_step(tmp_path: Path) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["field"], save_output=True, log_output=False)
    follow(callback, [{"field": [1.0, 2.0]}, {"field": [3.0]}])
    assert logged(callback) == {}
    (saved,) = files_of(callback).values()
    assert {name: tensor.tolist() for name, tensor in saved.items()} == {"field.0": [1.0, 2.0], "field.1": [3.0]}


def test_an_interval_that_is_repeated_after_a_resume_replaces_its_file(tmp_path: Path) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["x"], save_output=True)
    for value in (1.0, 2.0):
        follow(callback, [{"x": value}])
        logged(callback)
    (saved,) = files_of(callback).values()
    assert saved["x"].tolist() == [2.0]


def test_without_save_output_no_folder_is_made(tmp_path: Path) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["x"])
    follow(callback, [{"x": 1.0}])
    logged(callback)
    assert callback.out is None
    assert not (tmp_path / "test-run/outputs").exists()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["x"], save_output=True)
    (tmp_path / "test-run/outputs").write_text("in the way")
    follow(callback, [{"x": 1.0}])
    with pytest.raises(StorageError) as error:
        logged(callback)
    assert "E8_U50_S200.safetensors" in error.value.message


@pytest.mark.parametrize("log_output", [False, True])
def test_verbose_also_prints(tmp_path: Path, caplog: pytest.LogCaptureFixture, log_output: bool) -> None:
    callback = tracker_of(make_trainer(tmp_path), keys=["x"], verbose=True, log_output=log_output)
    caplog.set_level(logging.INFO, callback.logger.name)
    follow(callback, [{"x": 1.25}])
    callback.periodic_callback(interval_type="update", update_counter=make_counter())
    callback.writer.flush(make_counter())
    callback.writer.close()
    assert [record.getMessage() for record in caplog.records] == ["x: 1.25"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, 'keys = ["surface_loss"]'),
        ({"keys": [], "patterns": []}, "no outputs to track"),
        ({"keys": ["x"], "log_output": False}, "set log_output, save_output or verbose to true"),
    ],
    ids=str,
)
def test_a_callback_that_would_do_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        TrackAdditionalOutputsCallbackConfig(**settings)
    assert message in str(error.value)


def test_it_declares_the_keys_that_it_logs() -> None:
    table = {"every_n_epochs": 2, "keys": ["a_loss"], "patterns": ["b"], "save_output": True}
    facts = MetricFacts(None, ())
    produced = TrackAdditionalOutputsCallback.produced_metrics
    assert produced(TrackAdditionalOutputsCallbackConfig(**table), facts) == ("a_loss", "*b*")
    assert produced(TrackAdditionalOutputsCallbackConfig(**table, log_output=False), facts) == ()


def test_an_output_that_is_a_number_is_tracked_and_one_that_is_neither_is_named(trainer: BaseTrainer) -> None:
    callback = tracker_of(trainer, keys=["lambda"], patterns=["stats"])
    step = {"update_counter": make_counter(), "batch": {}, "losses": {}}
    callback.track_after_accumulation_step(update_outputs={"lambda": 0.5}, **step)
    assert logged(callback) == {"lambda": 0.5}
    with pytest.raises(TrainingError) as caught:
        callback.track_after_accumulation_step(update_outputs={"lambda": 0.5, "stats": {"mean": 1.0}}, **step)
    assert "'stats': found dict" in caught.value.message


def test_a_second_callback_of_the_kind_adds_its_id_to_its_keys() -> None:
    facts = MetricFacts(None, ())
    kind = "track-additional-outputs"
    configs = [TrackAdditionalOutputsCallbackConfig(keys=["a_loss"], id=name) for name in (kind, f"{kind}-2")]
    keys = [TrackAdditionalOutputsCallback.produced_metrics(config, facts) for config in configs]
    assert keys == [("a_loss",), ("a_loss/track-additional-outputs-2",)]
