"""The best checkpoints of whole runs: their updates, their retention, and evaluation on them."""

import itertools
import json
import multiprocessing

import numpy as np
import pytest
import torch

from noether.checkpoint.paths import checkpoint_folders
from noether.checkpoint.saved import CheckpointNames
from noether.errors import SpecError

METRIC = "loss/test/total"
BEST = "best_model.loss.test.total"
RESTLESS = {"kind": "SGD", "lr": 0.6, "momentum": 0.9}  # its loss goes up and down
HELD_OUT = {"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "test"}
KEEPER = {"kind": "best-checkpoint", "id": "keeper", "every_n_updates": 1, "metric_key": METRIC}
ON_BOTH = [{"kind": "offline-loss", "id": f"on-{key}", "dataset_key": key} for key in ("test", "train")]
EVERY_STEP = {"kind": "checkpoint", "every_n_updates": 1}


def changed(keeper=None, *, before=(), after=(), **changes):
    """Return the changes that make the tiny spec a restless run with a best checkpoint."""
    callbacks = [*before, HELD_OUT, {**KEEPER, **(keeper or {})}, *after]
    return {"trainer.callbacks": callbacks, "model.optimizer": RESTLESS, **changes}


@pytest.fixture
def curve(metric_lines):
    """Returns the values of the metric, one an update."""

    def values_of(outcome):
        return [line["metrics"][METRIC] for line in metric_lines(outcome) if METRIC in line["metrics"]]

    return values_of


def named(outcome):
    return CheckpointNames(outcome.run_dir / "checkpoints")


def weights(outcome, name):
    found = named(outcome).find(name)
    return found.saved.tensors(found.weights)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_checkpoint_is_the_step_of_the_best_value(finish, curve):
    outcome = finish(changed())
    values = curve(outcome)
    best = values.index(min(values)) + 1
    assert 1 < best < len(values)
    assert named(outcome).find(BEST).saved.manifest.update == best
    assert outcome.metrics[f"{METRIC}/best"] == min(values)


def test_its_weights_are_those_of_that_moment_and_stay_when_older_steps_go(finish, curve):
    everything = finish(changed(after=[EVERY_STEP], **{"checkpoints.keep_last": 100}))
    values = curve(everything)
    best = values.index(min(values)) + 1
    outcome = finish(changed(after=[EVERY_STEP], **{"checkpoints.keep_last": 1}))
    assert [step.name for step in checkpoint_folders(outcome.run_dir / "checkpoints")] == [
        f"step-{best:012d}",
        f"step-{len(values):012d}",
    ]
    assert equal(weights(outcome, BEST), weights(everything, f"step-{best:012d}"))
    assert not equal(weights(outcome, BEST), weights(outcome, "last"))


STORY = [3.0, 4.0, 2.0, 2.0, 2.5, 1.0, 7.0, 7.0, 7.0, 0.5, 9.0, 9.0]
TOLD = {"kind": "lab.metrics.Tells", "every_n_updates": 1, "values": STORY}
TOLD_KEEPER = {**KEEPER, "metric_key": "loss/told"}


def test_tolerances_name_what_early_stopping_would_have_kept_as_long_as_the_run_is(finish, lab):
    keeper = {**TOLD_KEEPER, "tolerances": [0, 1, 2, 5]}
    outcome = finish({"trainer.callbacks": [TOLD, keeper, EVERY_STEP], "checkpoints.keep_last": 1})
    assert updates_of(outcome, "best_model.loss.told") == {"": 10, ".tolerance=0": 1, ".tolerance=1": 3,
                                                           ".tolerance=2": 6, ".tolerance=5": 10}  # fmt: skip
    kept = {n: outcome.metrics[f"loss/told/best/tolerance={n}"] for n in (0, 1, 2, 5)}
    assert kept == {0: 3.0, 1: 2.0, 2: 1.0, 5: 0.5}
    steps = [int(step.name.removeprefix("step-")) for step in checkpoint_folders(outcome.run_dir / "checkpoints")]
    assert steps == [1, 3, 6, 10, 12]


def updates_of(outcome, tag):
    """Return the update of each checkpoint whose name begins with `tag`, by the rest of its name."""
    names = [name for name in named(outcome).known() if name.startswith(tag)]
    return {name.removeprefix(tag): named(outcome).find(name).saved.manifest.update for name in names}


def test_the_weights_of_a_tolerance_are_those_that_the_early_stopper_leaves_as_the_best(finish, lab):
    whole = finish({"trainer.callbacks": [TOLD, {**TOLD_KEEPER, "tolerances": [2]}]})
    stopper = {"kind": "metric-early-stopper", "every_n_updates": 1, "metric_key": "loss/told", "patience": 2}
    stopped = finish({"trainer.callbacks": [TOLD, TOLD_KEEPER, stopper]})
    tag = "best_model.loss.told"
    assert equal(weights(whole, f"{tag}.tolerance=2"), weights(stopped, tag))
    assert not equal(weights(whole, tag), weights(stopped, tag))


def test_what_is_not_finite_is_never_the_best_and_ends_no_run(finish, lab):
    story = ["nan", 2.0, 2.0, "-inf", 1.0, 1.0, "inf", "nan", 3.0, 3.0, 3.0, 3.0]
    outcome = finish({"trainer.callbacks": [{**TOLD, "values": story}, TOLD_KEEPER]})
    assert updates_of(outcome, "best_model.loss.told") == {"": 5}
    assert outcome.metrics["loss/told/best"] == 1.0


def test_a_best_checkpoint_may_hold_some_of_the_parts_of_a_composite(finish, lab):
    model = {"kind": "lab.models.EncoderDecoder", "optimizer": {"kind": "SGD", "lr": 0.1}}
    outcome = finish({"model": model, "trainer.callbacks": [TOLD, {**TOLD_KEEPER, "model_names": ["encoder"]}]})
    assert set(weights(outcome, "best_model.loss.told")) == {"encoder.linear.weight", "encoder.linear.bias"}
    everything = weights(outcome, "last")
    assert {name.split(".")[0] for name in everything} == {"encoder", "decoder"}


def test_an_unknown_part_of_a_composite_ends_the_run_before_its_first_update(run, lab):
    model = {"kind": "lab.models.EncoderDecoder", "optimizer": {"kind": "AdamW", "lr": 0.2}}
    outcome = run({"model": model, "trainer.callbacks": [TOLD, {**TOLD_KEEPER, "model_names": ["head"]}]})
    assert isinstance(outcome.error, SpecError)
    assert "'keeper': unknown model_names: found ['head']" in outcome.error.message
    assert checkpoint_folders(outcome.run_dir / "checkpoints") == []


def test_two_callbacks_with_the_same_names_of_checkpoints_are_refused(run, lab):
    other = {**TOLD_KEEPER, "id": "other", "higher_is_better": True}
    with pytest.raises(SpecError) as caught:
        run({"trainer.callbacks": [TOLD, TOLD_KEEPER, other]})
    assert "'other' logs the metric" in caught.value.message
    assert "'keeper' logs too" in caught.value.message


def test_below_an_ema_the_best_checkpoint_is_one_of_the_averages(finish, workplace):
    averages = {"kind": "ema", "id": "ema", "every_n_epochs": 1, "target_factors": [0.5, 0.9]}
    outcome = finish(changed(before=[{**averages, "eval_callbacks": [HELD_OUT, KEEPER]}]))
    for factor in (0.5, 0.9):
        found = named(outcome).find(f"best_model.ema={factor}.loss.test.total")
        assert found.weights == f"callbacks/ema/{factor}.safetensors"
        loss = loss_by_hand(found.saved.tensors(found.weights), workplace / "test.npz")
        assert outcome.metrics[f"ema={factor}/{METRIC}/best"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_children_evaluate_the_best_weights_on_data_of_their_own(finish, metric_lines, tiny_spec, workplace, workers):
    outcome = finish(changed({"eval_callbacks": ON_BOTH}, **{"loader.num_workers": workers}))
    lines = [line["metrics"] for line in metric_lines(outcome)]
    best_so_far = float("inf")
    for metrics in lines:
        if METRIC in metrics:
            is_best = metrics[METRIC] < best_so_far
            best_so_far = min(best_so_far, metrics[METRIC])
            assert (f"best=loss.test.total/{METRIC}" in metrics) is is_best
            if is_best:
                assert metrics[f"best=loss.test.total/{METRIC}"] == metrics[METRIC]
    for key in ("test", "train"):
        expected = loss_by_hand(weights(outcome, BEST), workplace / f"{key}.npz")
        assert outcome.metrics[f"best=loss.test.total/loss/{key}/total"] == pytest.approx(expected, rel=1e-5)


def loss_by_hand(tensors, file):
    """Return the mean squared error of the two-layer net of the tiny spec, on a whole file at once."""
    arrays = np.load(file)
    x, target = torch.tensor(arrays["x"]).double(), torch.tensor(arrays["y_target"]).double()
    layers = [tensor.double() for _, tensor in sorted(tensors.items())]
    bias_in, weight_in, bias_out, weight_out = layers
    hidden = torch.nn.functional.gelu(x @ weight_in.T + bias_in)
    return float((hidden @ weight_out.T + bias_out - target).square().mean())


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_with_and_without_it(finish, final_weights, lab, workers):
    gambler = {"kind": "lab.callbacks.Gambler"}
    loader = {"model.dropout": 0.2, "loader.num_workers": workers}
    without = finish({"trainer.callbacks": [HELD_OUT], "model.optimizer": RESTLESS, **loader})
    kept = finish(changed({"tolerances": [1], "eval_callbacks": [*ON_BOTH, gambler]}, **loader))
    assert final_weights(kept) == final_weights(without)


def test_children_are_called_at_the_beginning_at_a_best_and_at_the_end_but_in_no_round(finish, metric_lines, lab):
    diary = {"kind": "lab.callbacks.Diary", "id": "diary", "every_n_updates": 1}
    outcome = finish(changed({"eval_callbacks": [diary]}))
    calls = (lab.parent / "calls.txt").read_text().splitlines()
    told = [call for call in calls if call.startswith("keeper/diary")]
    values = [line["metrics"].get(METRIC, float("inf")) for line in metric_lines(outcome)]
    bests = [value for value, low in zip(values, itertools.accumulate(values, min), strict=True) if value == low]
    assert {call.split()[1] for call in told} == {"eval"}
    assert len(told) == len([value for value in bests if value < float("inf")])
    assert calls[0] == "before_training E0_U0_S0"
    assert calls[-2:] == ["after_training E2_U12_S96", "close"]
    assert len([call for call in calls if call.startswith("track_after_update_step")]) == 12


def test_the_state_of_a_child_is_in_the_checkpoint_below_the_id_of_its_parent(finish, lab):
    keeper = {**TOLD_KEEPER, "eval_callbacks": [{"kind": "lab.metrics.Counts", "id": "counter"}]}
    outcome = finish({"trainer.callbacks": [TOLD, keeper]})
    newest = checkpoint_folders(outcome.run_dir / "checkpoints")[-1]
    states = json.loads((newest / "trainer.json").read_text())["callbacks"]
    assert states["keeper"]["best"] == 0.5
    assert states["keeper/counter"] == {"calls": 4}


@pytest.mark.parametrize("fails", [False, True])
def test_workers_are_started_once_and_gone_in_the_end(run, metric_lines, lab, fails):
    seen = {"kind": "lab.metrics.WorkerIds"}
    chokes = {"kind": "lab.metrics.Chokes", "dataset_key": "train"}
    children = [*ON_BOTH, seen, *([chokes] if fails else [])]
    keeper = {**TOLD_KEEPER, "eval_callbacks": children}
    outcome = run({"trainer.callbacks": [TOLD, keeper], "loader.num_workers": 1})
    assert outcome.status == ("FAILED" if fails else "FINISHED")
    key = "best=loss.told/workers"
    workers = [line["metrics"][key] for line in metric_lines(outcome) if key in line["metrics"]]
    assert len(workers) == (2 if fails else 4) and len(set(workers)) == 1 and workers[0] > 0
    assert multiprocessing.active_children() == []


def test_a_child_that_raises_is_named_by_its_own_id(run, lab):
    fails = {"kind": "lab.callbacks.Fails", "id": "arsonist", "at_update": 1}
    outcome = run(changed({"eval_callbacks": [*ON_BOTH, fails]}))
    assert (outcome.status, type(outcome.error)) == ("FAILED", ZeroDivisionError)
    assert outcome.error.__notes__[0] == (
        "raised by callback 'keeper/arsonist' (kind lab.callbacks.Fails) in hook at_eval at update 1"
    )
    assert "'keeper'" in outcome.error.__notes__[1]
