"""`check --deep`: problems that only building and one forward pass can find."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noether.runs.deep_check import deep_check
from noether.spec.errors.problem import Problem
from noether.spec.load import load_spec


@pytest.fixture
def deep(tiny_spec: dict[str, Any], tmp_path_factory, monkeypatch) -> Callable[..., list[Problem]]:
    """Checks the tiny spec with some values changed, and that nothing is left behind."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def check(changes: dict[str, Any] | None = None) -> list[Problem]:
        before = [path for path in sorted(Path().rglob("*")) if "__pycache__" not in path.parts]
        problems = deep_check(load_spec(tiny_spec, set=changes))
        assert [path for path in sorted(Path().rglob("*")) if "__pycache__" not in path.parts] == before
        assert list(temporary.glob("noether-*")) == []
        return problems

    return check


def loss(**more: Any) -> dict[str, Any]:
    return {"kind": "offline-loss", "dataset_key": "test", "every_n_epochs": 1, **more}


EVERY_UPDATE = loss(every_n_epochs=None, every_n_updates=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trainer.callbacks": [loss(), {"kind": "checkpoint", "every_n_updates": 1}]},
        {"trainer.max_epochs": None, "trainer.max_updates": 1, "trainer.callbacks": [EVERY_UPDATE]},
        {"trainer.max_epochs": 0, "trainer.callbacks": [loss()]},
        {"loader.num_workers": 1},
    ],
    ids=["plain", "callbacks", "one update", "evaluation only", "workers"],
)
def test_a_sound_run_has_no_problems_and_prints_nothing(deep, capfd, changes):
    assert deep(changes) == []
    assert capfd.readouterr() == ("", "")


def test_sizes_that_do_not_fit_name_the_shapes(deep):
    (problem,) = deep({"model.out_features": {"y": 3}})
    assert (problem.code, problem.path) == ("forward-failed", ("trainer", "loss_fn"))
    assert "the batch has x (8, 3) float32, y_target (8, 2) float32" in problem.message
    assert "the model returned y (8, 3) float32" in problem.message


def test_a_model_that_cannot_take_a_batch_is_reported(deep):
    linear = {"kind": "torch.nn.Linear", "in_features": 5, "out_features": 2, "optimizer": {"kind": "SGD", "lr": 0.1}}
    (problem,) = deep({"model": linear})
    assert (problem.code, problem.path) == ("forward-failed", ("model",))
    assert "x (8, 3) float32" in problem.message


def test_an_empty_data_set_names_the_callback_that_goes_through_it(deep):
    np.savez("test.npz", x=np.zeros((0, 3), "float32"), y_target=np.zeros((0, 2), "float32"))
    (problem,) = deep({"trainer.callbacks": [loss()]})
    assert (problem.code, problem.path) == ("empty-dataset", ("trainer", "callbacks", 0, "dataset_key"))


def test_an_interval_that_never_fires_in_this_data_is_reported(deep):
    (problem,) = deep({"trainer.callbacks": [loss(every_n_epochs=None, every_n_updates=13)]})
    assert (problem.code, problem.path) == ("never-fires", ("trainer", "callbacks", 0, "every_n_updates"))
    assert "12 updates" in problem.message


def test_an_evaluation_callback_is_shown_a_batch_though_its_interval_is_far(deep):
    metrics = {"kind": "offline-metrics", "dataset_key": "test", "every_n_epochs": 1, "metrics": {"z": ["mae"]}}
    (problem,) = deep({"trainer.callbacks": [metrics]})
    assert (problem.code, problem.path) == ("evaluation-failed", ("trainer", "callbacks", 0))
    assert "the batch has x (8, 3) float32, y_target (8, 2) float32" in problem.message


def test_a_target_of_the_test_set_alone_can_be_evaluated(deep):
    np.savez("test.npz", **{name: np.ones((8, size), "float32") for name, size in [("x", 3), ("z_target", 1)]})
    metrics = {"kind": "offline-metrics", "dataset_key": "test", "every_n_epochs": 1, "metrics": {"z": ["mae"]}}
    assert deep({"model.out_features": {"y": 2, "z": 1}, "trainer.callbacks": [metrics]}) == []


def test_a_callback_that_takes_gradients_is_shown_how(deep, lab):
    (lab / "slope.py").write_text(SLOPE)
    slope = {"kind": "lab.slope.Slope", "every_n_epochs": 1, "dataset_key": "test"}
    (problem,) = deep({"trainer.callbacks": [slope]})
    assert problem.code == "evaluation-failed"
    assert "torch.enable_grad" in (problem.hint or "")


def test_a_sum_in_place_of_a_mean_is_reported_where_steps_are_accumulated(deep, lab):
    (problem,) = deep({"trainer.loss_fn": "lab.losses.summed", "trainer.max_batch_size": 4})
    assert (problem.code, problem.path) == ("summed-loss", ("trainer", "loss_fn"))


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer.loss_fn": "lab.losses.summed"},
        {"trainer.loss_fn": "lab.losses.summed_and_counted", "trainer.max_batch_size": 4},
        {"trainer.loss_fn": "lab.losses.fourth_power", "trainer.max_batch_size": 4},
        {"trainer.loss_fn": {"kind": "mse", "reduction": "sum"}, "trainer.max_batch_size": 4},
    ],
    ids=["one accumulation step", "counted", "mean", "a sum of torch"],
)
def test_a_loss_that_accumulation_takes_for_what_it_is_passes(deep, lab, changes):
    assert deep(changes) == []


def test_a_loss_that_takes_no_half_of_a_batch_is_not_passed_over_in_silence(deep, lab, caplog):
    assert deep({"trainer.loss_fn": "lab.losses.of_four", "trainer.max_batch_size": 4}) == []
    assert "not known if the loss is a sum over samples" in caplog.text
    assert "found 2 samples" in caplog.text


def test_a_component_that_cannot_be_built_is_reported(deep):
    (problem,) = deep({"trainer.effective_batch_size": 49})
    assert problem.code == "build-failed"
    assert "48 samples" in problem.message
    assert problem.hint == "set effective_batch_size to at most 48"


TWO_LENGTHS = {"kind": "linear", "over_updates": 2, "over_epochs": 1}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"datasets.test.path": "missing.npz"}, "datasets.test"),
        ({"transforms": [{"kind": "normalize", "properties": ["z"]}]}, "datasets.train"),
        ({"model.checkpoint": ["layers.*", "nothing.*"]}, "model.checkpoint.1"),
        ({"model.frozen": ["nothing.*"]}, "model.frozen.0"),
        ({"model.optimizer.groups": [{"match": ["nothing.*"], "lr_scale": 2.0}]}, "model.optimizer.groups.0"),
        ({"model.optimizer.schedule": TWO_LENGTHS}, "model.optimizer.schedule"),
        ({"model.hidden": [-1]}, "model"),
        ({"trainer.forward_properties": ["z"]}, "trainer.forward_properties"),
        ({"initializer": {"kind": "checkpoint", "path": "missing.safetensors"}}, "initializer"),
    ],
)
def test_what_cannot_be_built_is_reported_at_its_place(deep, changes, path):
    (problem,) = deep(changes)
    assert problem.code == "build-failed"
    assert ".".join(map(str, problem.path)) == path


def test_a_callback_that_fails_in_the_first_two_updates_is_named(deep, lab):
    fails = {"kind": "lab.callbacks.Fails", "id": "arsonist", "every_n_updates": 1, "at_update": 2}
    (problem,) = deep({"trainer.callbacks": [fails]})
    assert problem.code == "update-failed"
    assert "ZeroDivisionError: the lab is on fire" in problem.message
    assert "callback 'arsonist'" in problem.message
    assert problem.path == ("trainer", "callbacks", 0)


def test_no_more_than_two_updates_are_made(deep, lab):
    fails = {"kind": "lab.callbacks.Fails", "every_n_updates": 1, "at_update": 3}
    assert deep({"trainer.callbacks": [fails]}) == []


def test_a_state_that_cannot_be_saved_is_reported(deep, lab):
    fails = {"kind": "lab.callbacks.FailsIn", "every_n_epochs": 1, "hook": "state_dict"}
    (problem,) = deep({"trainer.callbacks": [fails]})
    assert "the lab is on fire" in problem.message


def test_what_callbacks_log_in_two_updates_is_not_heard(deep, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of the command line
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total", "tolerances": [5]}
    assert deep({"trainer.callbacks": [loss(), best]}) == []
    assert capfd.readouterr() == ("", "")
    logging.getLogger("noether.callbacks.Any").warning("heard again")
    assert capfd.readouterr().err == "heard again\n"


def test_what_a_callback_does_when_its_interval_fires_is_tried(deep, lab):
    (lab / "late.py").write_text(LATE)
    passes = {"kind": "lab.late.Results", "id": "figures", "every_n_epochs": 1, "dataset_key": "test"}
    rounds = {"kind": "lab.late.Round", "id": "round", "every_n_epochs": 2}
    found = deep({"trainer.callbacks": [passes, rounds]})
    assert [problem.code for problem in found] == ["evaluation-failed"] * 2
    assert [problem.path for problem in found] == [("trainer", "callbacks", 0), ("trainer", "callbacks", 1)]
    assert "'figures' cannot use the results of its data set: KeyError: 'rmse'" in found[0].message
    assert "'round' fails when its interval fires: ZeroDivisionError" in found[1].message


SLOPE = """
import torch

from noether.core.callbacks import PeriodicDataIteratorCallback


class Slope(PeriodicDataIteratorCallback):
    def process_data(self, batch, *, trainer_model):
        x = batch["x"].requires_grad_()
        return torch.autograd.grad(trainer_model(x=x)["y"].sum(), x)[0]

    def process_results(self, results, **_):
        pass
"""

LATE = """
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback


class Results(PeriodicDataIteratorCallback):
    def process_data(self, batch, *, trainer_model):
        return {"mean": batch["x"].mean()}

    def process_results(self, results, **_):
        results["rmse"]


class Round(PeriodicCallback):
    def periodic_callback(self, **_):
        1 / 0
"""
