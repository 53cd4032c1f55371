"""A callback that raises ends the run and is named; nothing else is lost."""

import pytest

FAILS = {"kind": "lab.callbacks.Fails", "id": "arsonist", "every_n_updates": 1, "at_update": 3}


@pytest.fixture
def failed(run, lab):
    """A run whose callback raised at update 3, between two others."""
    diary = {"kind": "lab.callbacks.Diary", "id": "diary", "every_n_updates": 1}
    early = {"kind": "checkpoint", "every_n_updates": 2}
    return run({"trainer.callbacks": [early, {**FAILS, "logs": True}, diary]})


def test_the_error_names_callback_hook_and_update(failed, attempt):
    assert (failed.status, failed.exit_code) == ("FAILED", 1)
    assert isinstance(failed.error, ZeroDivisionError)
    (note,) = failed.error.__notes__
    assert note == "raised by callback 'arsonist' (kind lab.callbacks.Fails) in hook after_update at update 3"
    record = attempt(failed)
    assert record["status"] == "FAILED"
    assert "the lab is on fire" in record["reason"]
    assert "arsonist" in record["reason"]
    assert record["ended"] >= record["started"]


def test_the_traceback_is_in_the_log(failed):
    log = (failed.run_dir / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert 'raise ZeroDivisionError("the lab is on fire")' in log


def test_metrics_of_the_interrupted_round_are_on_the_disk(failed, metric_lines):
    last = metric_lines(failed)[-1]
    assert last["update"] == 3
    assert last["metrics"]["last/words"] == 1.0
    assert last["metrics"]["loss/online/total"] > 0


def test_the_other_callbacks_are_closed_without_after_training(failed, lab):
    calls = (lab.parent / "calls.txt").read_text().splitlines()
    assert calls[-1] == "close"
    assert not [call for call in calls if call.startswith("after_training")]
    assert "diary: update E0_U3_S24" not in calls  # it comes after the one that raised


def test_nothing_half_done_is_saved(failed, verified_updates):
    assert verified_updates(failed.run_dir) == [2]


@pytest.mark.parametrize("hook", ["before_training", "track_after_accumulation_step", "state_dict", "close"])
def test_every_hook_may_raise(run, lab, attempt, hook):
    outcome = run({"trainer.callbacks": [{"kind": "lab.callbacks.FailsIn", "every_n_updates": 2, "hook": hook}]})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert isinstance(outcome.error, ZeroDivisionError)
    assert attempt(outcome)["status"] == "FAILED"


def test_a_plugin_that_raises_when_the_run_is_over_does_not_hide_how_it_ended(run, lab, attempt, capsys):
    outcome = run(plugins=["lab.plugin"])
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)
    assert attempt(outcome)["status"] == "FINISHED"
    assert "too late" in (outcome.run_dir / "log.txt").read_text()


def test_an_expectation_that_is_broken_fails_the_run_with_value_and_bound(run, attempt):
    outcome = run({"expect": {"optim/lr": {"max": 0.001}}})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert "optim/lr = 0.01, expected at most 0.001" in outcome.error.message
    assert attempt(outcome)["status"] == "FAILED"
    assert outcome.metrics["optim/lr"] == 0.01


def test_an_expectation_of_an_unlogged_metric_names_the_nearest(run, lab):
    silent = {"kind": "lab.callbacks.Moments", "every_n_updates": 1}  # so that nobody can know it before the run
    outcome = run({"expect": {"optim/lrr": {"max": 1.0}}, "trainer.callbacks": [silent]})
    assert "optim/lrr was never logged, expected at most 1. Did you mean 'optim/lr'?" in outcome.error.message


def test_an_expectation_that_is_met_says_nothing(finish):
    finish({"expect": {"optim/lr": {"min": 0.01, "max": 0.01}, "model/parameters": {"equals": 50}}})
