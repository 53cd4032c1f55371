"""Accumulation changes the memory of an update, not its mathematics."""

import pytest
import torch
from safetensors.torch import load

from noether.errors import SpecError
from noether.runs.plan.plan import make_plan
from noether.spec.load import load_spec

GRADIENT_DESCENT = {"kind": "SGD", "lr": 0.05}  # Adam would not notice gradients that are too large
LIMITS = {"max_epochs": 2, "max_updates": 7, "max_samples": 56}
UPDATES = {"max_epochs": 12, "max_updates": 7, "max_samples": 7}
FIRES = [
    ({"every_n_epochs": 1}, [6, 12]),
    ({"every_n_updates": 2}, [2, 4, 6, 8, 10, 12]),
    ({"every_n_samples": 20}, [3, 5, 8, 10]),
]
"""Intervals, and the updates at which they fire in two epochs of six updates of eight samples."""


@pytest.mark.parametrize(("unit", "limit"), LIMITS.items())
def test_accumulated_updates_end_like_whole_ones(finish, final_weights, unit, limit):
    limits = {"trainer.max_epochs": None, f"trainer.{unit}": limit, "model.optimizer": GRADIENT_DESCENT}
    whole, parts = finish(limits), finish({**limits, "trainer.max_batch_size": 3})
    expected, found = load(final_weights(whole)), load(final_weights(parts))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("interval", "fires"), FIRES, ids=str)
@pytest.mark.parametrize(("unit", "limit"), LIMITS.items())
def test_accumulation_leaves_every_interval_of_a_run_of_every_limit_as_it_is(
    finish, metric_lines, lab, unit, limit, interval, fires
):
    moments = {"kind": "lab.callbacks.Moments", "id": "moments", **interval}
    watch = {"kind": "offline-loss", "dataset_key": "test", "batch_size": 5, **interval}
    changes = {"trainer.max_epochs": None, f"trainer.{unit}": limit, "model.optimizer": GRADIENT_DESCENT}
    whole, parts = (
        metric_lines(finish({**changes, **accumulation, "trainer.callbacks": [moments, watch]}))
        for accumulation in ({}, {"trainer.max_batch_size": 3})
    )
    due = [update for update in fires if update <= UPDATES[unit]]
    assert values_of(whole, "moments") == values_of(parts, "moments") == {update: update for update in due}
    held_out = values_of(whole, "loss/test/total")
    assert list(held_out) == due
    assert values_of(parts, "loss/test/total") == pytest.approx(held_out, rel=1e-3)


def values_of(lines, key):
    return {line["update"]: line["metrics"][key] for line in lines if key in line["metrics"]}


def test_the_largest_divisor_that_fits_is_the_batch_of_a_forward_pass(finish, lab):
    diary = {"kind": "lab.callbacks.Diary", "every_n_updates": 1}
    finish({"trainer.max_batch_size": 7, "trainer.callbacks": [diary]})
    steps = [line for line in (lab.parent / "calls.txt").read_text().splitlines() if "samples," in line]
    assert steps[:2] == [
        "  1 of 2: 4 samples, losses total,y_loss",
        "  2 of 2: 4 samples, losses total,y_loss",
    ]
    assert len(steps) == 2 * 12


def test_the_online_loss_is_the_mean_over_accumulation_steps(finish, metric_lines):
    changes = {"trainer.max_epochs": 1, "trainer.track_every_n_updates": 6}
    whole = metric_lines(finish(changes))[-1]["metrics"]
    parts = metric_lines(finish({**changes, "trainer.max_batch_size": 2}))[-1]["metrics"]
    assert parts["loss/online/total"] == pytest.approx(whole["loss/online/total"], rel=1e-4)


def test_evaluation_between_accumulated_updates_never_reaches_training(finish, final_weights):
    accumulated = {"trainer.max_batch_size": 2}
    watch = [{"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "test", "batch_size": 5}]
    watched = finish({**accumulated, "trainer.callbacks": watch})
    assert final_weights(watched) == final_weights(finish(accumulated))


def test_accumulation_that_is_switched_off_is_refused_where_it_would_be_needed(run):
    with pytest.raises(SpecError) as caught:
        run({"trainer.max_batch_size": 4, "trainer.disable_gradient_accumulation": True})
    assert "found 4, expected at least 8" in str(caught.value)


def test_a_sum_is_that_of_the_whole_update_and_of_the_whole_data_set(finish, final_weights, metric_lines):
    watch = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
    changes = {
        "model.optimizer": {"kind": "SGD", "lr": 0.001},
        "trainer.loss_fn": {"kind": "mse", "reduction": "sum"},
        "trainer.track_every_n_updates": 6,
    }
    whole = finish({**changes, "trainer.callbacks": [{**watch, "batch_size": 13}]})
    parts = finish({**changes, "trainer.max_batch_size": 2, "trainer.callbacks": [{**watch, "batch_size": 5}]})
    torch.testing.assert_close(load(final_weights(parts)), load(final_weights(whole)), rtol=1e-4, atol=1e-6)
    for key in ("loss/test/total", "loss/test/y_loss", "loss/online/total", "loss/online/y_loss"):
        assert values_of(metric_lines(parts), key) == pytest.approx(values_of(metric_lines(whole), key), rel=1e-4)


@pytest.mark.parametrize(
    ("loss_fn", "words"),
    [
        ("mse", "a mean over samples"),
        ({"kind": "l1", "reduction": "sum"}, "a sum over samples"),
        ("lab.losses.fourth_power", "taken as a mean over samples, unless it returns Counted(loss, n)"),
    ],
)
def test_plan_says_what_the_loss_is_a_mean_of(tiny_spec, lab, loss_fn, words):
    assert make_plan(load_spec(tiny_spec, set={"trainer.loss_fn": loss_fn})).loss == words
