"""Intervals of periodic callbacks, and their passes over a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noether.config.components import CallBackBaseConfig, PeriodicDataIteratorCallbackConfig
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.errors import TrainingError
from noether.testing import make_counter, make_model, make_trainer


class Recorder(PeriodicCallback):
    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.calls: list[tuple[str, int]] = []

    def periodic_callback(self, *, interval_type: Any, update_counter: Any, **_: Any) -> None:
        assert not torch.is_grad_enabled()
        self.calls.append((interval_type, update_counter.update))


class Collector(PeriodicDataIteratorCallback):
    fails = False

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> dict[str, Any]:
        assert not trainer_model.training
        if self.fails:
            raise ZeroDivisionError
        return {"x": batch["x"], "samples": len(batch["x"])}

    def process_results(self, results: Any, **_: Any) -> None:
        self.results = results


def recorder(folder: Path, **intervals: int) -> Recorder:
    return Recorder(CallBackBaseConfig(**intervals), **make_trainer(folder).callback_default_kwargs(make_model()))


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ({"every_n_epochs": 2}, [("epoch", 12)]),
        ({"every_n_updates": 5}, [("update", 5), ("update", 10)]),
        ({"every_n_samples": 24}, [("sample", 6), ("sample", 12)]),
        ({"every_n_updates": 6, "every_n_epochs": 1}, [("update", 6), ("epoch", 6), ("update", 12), ("epoch", 12)]),
        ({}, []),
    ],
    ids=str,
)
def test_callbacks_act_in_the_rounds_of_their_intervals(
    intervals: dict[str, int], expected: list[tuple[str, int]], tmp_path: Path
) -> None:
    callback = recorder(tmp_path, **intervals)
    for update in range(1, 13):
        counter = make_counter(update=update)
        callback.after_update(counter)
        if counter.is_full_epoch:
            callback.after_epoch(counter)
    assert callback.calls == expected


def test_evaluation_acts_outside_of_any_schedule(tmp_path: Path) -> None:
    callback = recorder(tmp_path, every_n_updates=5)
    callback.at_eval(make_counter(update=3))
    assert callback.calls == [("eval", 3)]


def test_updates_till_the_next_call_are_a_whole_interval_at_an_exact_multiple(tmp_path: Path) -> None:
    callback = recorder(tmp_path, every_n_epochs=2)
    assert callback.updates_per_interval(make_counter()) == 12
    assert [callback.updates_till_next_invocation(make_counter(update=u)) for u in (0, 1, 11, 12)] == [12, 11, 1, 12]
    assert callback.next_due_update(make_counter(update=12)) == 24
    assert callback.get_interval_string_verbose() == "every_n_epochs=2"


def test_an_interval_that_a_callback_sets_later_counts(tmp_path: Path) -> None:
    callback = recorder(tmp_path, every_n_epochs=2)
    callback.every_n_updates, callback.every_n_epochs = 5, None
    callback.after_update(make_counter(update=5))
    assert callback.calls == [("update", 5)]
    assert callback.next_due_update(make_counter(update=5)) == 10
    assert callback.get_interval_string_verbose() == "every_n_updates=5"


def collector(folder: Path, **settings: Any) -> tuple[Collector, dict[str, Any]]:
    """Return a collector over `test`, and the arguments of its call from the stream of an evaluation."""
    trainer, model = make_trainer(folder), make_model()
    config = PeriodicDataIteratorCallbackConfig(every_n_epochs=1, dataset_key="test", **settings)
    callback = Collector(config, **trainer.callback_default_kwargs(model))
    stream = iter(trainer.get_data_loader([callback], batch_size=4, evaluation=True))
    return callback, {
        "interval_type": "eval",
        "update_counter": make_counter(),
        "data_iter": stream,
        "trainer_model": model,
        "batch_size": 4,
    }


@pytest.mark.parametrize(
    ("settings", "batches"),
    [({}, [4, 4, 2]), ({"batch_size": 3}, [3, 3, 3, 1]), ({"max_size": 5}, [4, 1])],
    ids=str,
)
def test_a_pass_covers_the_data_set_once_and_in_order(
    settings: dict[str, int], batches: list[int], tmp_path: Path
) -> None:
    callback, arguments = collector(tmp_path, **settings)
    callback.periodic_callback(**arguments)
    assert callback.results["samples"].tolist() == batches
    whole = callback.data_container.get_dataset("test")
    assert torch.equal(callback.results["x"], torch.stack([whole[i]["x"] for i in range(sum(batches))]))
    assert callback.total_data_time > 0


def test_a_pass_may_leave_properties_out(tmp_path: Path) -> None:
    _, arguments = collector(tmp_path, properties=["x"])
    (tagged, *_) = arguments["data_iter"]
    assert list(tagged.batch) == ["x"]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_in_its_former_mode_afterwards_also_after_an_error(training: bool, tmp_path: Path) -> None:
    callback, arguments = collector(tmp_path)
    arguments["trainer_model"].train(training)
    callback.periodic_callback(**arguments)
    assert arguments["trainer_model"].training is training
    callback, arguments = collector(tmp_path)
    arguments["trainer_model"].train(training)
    callback.fails = True
    with pytest.raises(ZeroDivisionError):
        callback.periodic_callback(**arguments)
    assert arguments["trainer_model"].training is training


def test_a_pass_that_the_stream_does_not_hold_is_refused(tmp_path: Path) -> None:
    callback, arguments = collector(tmp_path)
    callback.periodic_callback(**arguments)
    with pytest.raises(TrainingError) as error:
        callback.periodic_callback(**arguments)
    assert error.value.hint is not None


def test_an_abstract_callback_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(TypeError) as error:
        PeriodicDataIteratorCallback(  # type: ignore[abstract]  # that is the point
            PeriodicDataIteratorCallbackConfig(), **make_trainer(tmp_path).callback_default_kwargs(make_model())
        )
    assert "process_data" in str(error.value)
