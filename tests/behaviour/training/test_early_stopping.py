"""Early stopping: the round is finished, a checkpoint is written, and the run succeeds."""

import json

import pytest

from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.errors import SpecError

DIARY = {"kind": "lab.callbacks.Diary", "id": "diary", "every_n_updates": 1}
EPOCHS = {"kind": "lab.callbacks.Moments", "id": "epochs", "every_n_epochs": 1}


def stops(hook, at_update=3, **settings):
    return {"kind": "lab.stops.StopsIn", "id": "stops", "every_n_updates": 1, "hook": hook, "at_update": at_update} | (
        settings
    )


def calls(lab):
    return (lab.parent / "calls.txt").read_text().splitlines()


def newest(outcome):
    """Return manifest and files of the newest checkpoint, each byte checked."""
    return read_checkpoint(checkpoint_folders(outcome.run_dir / "checkpoints")[-1])


def end_of(outcome):
    manifest, _ = newest(outcome)
    return manifest.epoch, manifest.update, manifest.sample


def reason_of(outcome):
    record = json.loads((outcome.run_dir / "attempts/0001.json").read_text())
    assert record["status"] == "FINISHED"
    return record["reason"]


@pytest.mark.parametrize(
    ("hook", "at_update", "last"),
    [
        ("before_training", 0, 0),
        ("before_optimizer_step", 3, 4),  # which fire before the update counts
        ("track_after_accumulation_step", 3, 4),
        ("track_after_update_step", 3, 3),
        ("update", 3, 3),
    ],
)
def test_whichever_hook_asks_for_it_the_update_is_finished_and_saved_and_the_others_are_called(
    finish, lab, hook, at_update, last
):
    outcome = finish({"trainer.max_batch_size": 4, "trainer.callbacks": [stops(hook, at_update), DIARY]})
    assert end_of(outcome) == (0, last, 8 * last)
    assert newest(outcome)[0].resumable
    assert reason_of(outcome) == "enough (callback 'stops')"
    lines = calls(lab)
    now = f"E0_U{last}_S{8 * last}"
    assert lines[0] == "before_training E0_U0_S0"
    assert lines[-2:] == [f"after_training {now}", "close"]
    if last:
        before = f"E0_U{last - 1}_S{8 * (last - 1)}"
        steps = [line for line in lines if line == f"track_after_accumulation_step {before}"]
        assert len(steps) == 2  # both accumulation steps of the last update
        assert f"before_optimizer_step {before}" in lines
        assert lines[-4:-2] == [f"track_after_update_step {now}", f"diary: update {now}"]
    else:
        assert len(lines) == 3


def test_a_stop_after_the_last_update_of_an_epoch_leaves_the_round_of_the_epoch_in_place(finish, lab, metric_lines):
    outcome = finish({"trainer.max_epochs": 5, "trainer.callbacks": [stops("update", 6), EPOCHS]})
    assert calls(lab) == ["epochs: epoch E1_U6_S48"]
    assert end_of(outcome) == (1, 6, 48)
    last = metric_lines(outcome)[-1]
    assert (last["update"], last["metrics"]["epochs"]) == (6, 6)


def test_a_stop_after_an_epoch_leaves_the_others_of_the_round_in_place(finish, lab):
    stopper = stops("epoch", 6, every_n_epochs=1)
    del stopper["every_n_updates"]
    outcome = finish({"trainer.max_epochs": 5, "trainer.callbacks": [stopper, EPOCHS]})
    assert calls(lab) == ["epochs: epoch E1_U6_S48"]
    assert end_of(outcome) == (1, 6, 48)


def test_the_earliest_of_several_reasons_is_the_one_that_is_recorded(finish, lab):
    both = [stops("epoch", 6, every_n_epochs=1, reason="late", id="a"), stops("update", 6, reason="first", id="b")]
    del both[0]["every_n_updates"]
    outcome = finish({"trainer.callbacks": [*both, stops("update", 6, reason="second", id="c")]})
    assert reason_of(outcome) == "first (callback 'b')"


def test_the_log_says_where_and_why_training_ended(finish, lab):
    log = (finish({"trainer.callbacks": [stops("update")]}).run_dir / "log.txt").read_text()
    assert "training ends at E0_U3_S24: enough (callback 'stops')" in log
    assert "Traceback" not in log


def test_a_run_plugin_may_end_training(finish, lab):
    outcome = finish(plugins=["lab.stops"])
    assert end_of(outcome) == (0, 2, 16)
    assert reason_of(outcome) == "the plugin has seen enough (plugin 'lab.stops')"


def test_a_stop_in_an_evaluation_leaves_the_others_in_place(finish, lab):
    outcome = finish({"trainer.max_epochs": 0, "trainer.callbacks": [stops("eval", 0), DIARY]})
    assert "diary: eval E0_U0_S0" in calls(lab)
    assert reason_of(outcome) == "enough (callback 'stops')"


def test_a_nested_callback_ends_training_after_its_siblings_and_parent_have_done_their_part(finish, lab, metric_lines):
    children = [stops("update"), {"kind": "lab.stops.Notes", "every_n_updates": 1}]
    parent = {"kind": "lab.stops.Parent", "id": "parent", "callbacks": children}
    outcome = finish({"trainer.callbacks": [parent, DIARY]})
    assert end_of(outcome) == (0, 3, 24)
    assert reason_of(outcome) == "enough (callback 'parent/stops')"
    last = metric_lines(outcome)[-1]["metrics"]
    assert (last["child/noted"], last["parent/restored"]) == (3, 3)
    assert "diary: update E0_U3_S24" in calls(lab)


def test_a_stop_changes_nothing_before_it(finish, final_weights):
    limits = {"trainer.max_epochs": None, "trainer.max_updates": 5}
    whole = finish({**limits, "trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 3}]})
    stopped = finish({**limits, "trainer.callbacks": [{"kind": "fixed-early-stopper", "stop_at_update": 3}]})
    (there,) = (whole.run_dir / "checkpoints").glob("step-*3/model.safetensors")
    assert final_weights(stopped) == there.read_bytes()


# The callbacks that come with it


@pytest.mark.parametrize(
    ("point", "end"),
    [
        ({"stop_at_epoch": 1}, (1, 6, 48)),
        ({"stop_at_update": 8}, (1, 8, 64)),
        ({"stop_at_sample": 65}, (1, 9, 72)),
    ],
    ids=str,
)
def test_a_fixed_stopper_ends_training_at_its_point(finish, point, end):
    outcome = finish({"trainer.callbacks": [{"kind": "fixed-early-stopper", **point}]})
    assert end_of(outcome) == end
    ((name, value),) = point.items()
    assert reason_of(outcome) == f"{name} = {value} is reached (callback 'fixed-early-stopper')"


def test_a_fixed_stopper_ends_training_after_a_duration_and_its_checkpoint_knows_the_time(finish, lab):
    kind = "lab.stops.TwoSecondsAnUpdate"
    outcome = finish({"trainer.callbacks": [{"kind": kind, "id": "clock", "stop_after_seconds": 9.0}]})
    assert end_of(outcome) == (0, 5, 40)
    assert reason_of(outcome) == "stop_after_seconds = 9.0 is reached (callback 'clock')"
    assert json.loads(newest(outcome)[1]["trainer.json"])["callbacks"]["clock"]["seconds"] == 10.0


def metric_stopper(**settings):
    told = {"kind": "lab.stops.Metric", "every_n_updates": 2}
    stopper = {"kind": "metric-early-stopper", "every_n_updates": 2, "metric_key": "loss/told", **settings}
    return [told, stopper]


def test_patience_counts_intervals_and_not_updates(finish, lab):
    (lab.parent / "values.txt").write_text("3 1 2 nan 0.5 0.5 0.7")
    outcome = finish({"trainer.max_epochs": 5, "trainer.callbacks": metric_stopper(patience=1)})
    assert end_of(outcome) == (1, 8, 64)  # the values after 6 and 8 updates are worse than the one after 4
    reason = "loss/told has not improved for 2 intervals, patience = 1; its best value is 1"
    assert reason_of(outcome) == f"{reason} (callback 'metric-early-stopper')"


def test_a_metric_stopper_s_checkpoint_holds_its_best_value(finish, lab):
    (lab.parent / "values.txt").write_text("3 1 2 nan")
    files = newest(finish({"trainer.max_epochs": 5, "trainer.callbacks": metric_stopper(patience=1)}))[1]
    state = json.loads(files["trainer.json"])["callbacks"]["metric-early-stopper"]
    assert state == {"best": 1.0, "without_improvement": 2}


@pytest.mark.parametrize(
    ("stopper", "names"),
    [
        ({"kind": "fixed-early-stopper"}, "stop_after_seconds"),
        ({"kind": "fixed-early-stopper", "stop_at_epoch": 1, "stop_at_update": 1}, "stop_at_update"),
        ({"kind": "fixed-early-stopper", "stop_at_epoch": 1, "every_n_epochs": 1}, "every_n_epochs"),
        ({"kind": "metric-early-stopper", "metric_key": "loss/test/total", "patience": 1}, "every_n_epochs"),
        ({"kind": "metric-early-stopper", "every_n_epochs": 1, "metric_key": "a", "patience": 0}, "patience"),
        ({"kind": "metric-early-stopper", "every_n_epochs": 1, "patience": 1}, "metric_key"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_before_training(run, workplace, stopper, names):
    with pytest.raises(SpecError) as caught:
        run({"trainer.callbacks": [stopper]})
    assert names in str(caught.value)
    assert not list(workplace.glob("runs/*"))
