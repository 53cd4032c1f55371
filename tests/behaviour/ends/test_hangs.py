"""Hooks and data sets that never come back: they are named, with the stack of every thread, and the run can go on."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tomli_w

from noether.errors import DataError, TrainingError

SAVES = {"kind": "checkpoint", "every_n_updates": 2}
NORMALIZE = {"transforms": [{"kind": "normalize", "properties": ["x"]}]}


def hangs(hook="after_update", action="hang", at_update=3):
    return {
        "kind": "lab.faults.Fault",
        "id": "sleeper",
        "every_n_updates": 1,
        "hook": hook,
        "action": action,
        "at_update": at_update,
    }


def hanging(*arguments, **options):
    return {"trainer.callbacks": [SAVES, hangs(*arguments, **options)], "trainer.hook_timeout_s": 1.0}


@pytest.mark.parametrize(
    ("hook", "action"),
    [("after_update", "hang"), ("after_update", "spin"), ("process_data", "hang"), ("track_after_update_step", "spin")],
)
def test_a_hook_that_hangs_is_named_with_all_stacks_and_the_run_ends_resumable(
    run, finish, lab, attempt, verified_updates, hook, action
):
    outcome = run(hanging(hook, action), run_id="hung")
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert isinstance(outcome.error, TrainingError)
    called = "track_after_update_step" if hook.startswith("track") else "after_update"
    assert f"hook {called} of callback 'sleeper' (kind lab.faults.Fault)" in outcome.error.message
    assert "at update 3" in outcome.error.message
    record = attempt(outcome)
    assert record["status"] == "FAILED"
    assert "callback 'sleeper'" in record["reason"]
    log = (outcome.run_dir / "log.txt").read_text()
    assert "the stack of every thread" in log
    assert "faults.py" in log
    assert "noether-watchdog" in log or log.count("Thread 0x") >= 1
    assert verified_updates(outcome.run_dir) == [2]
    well = {"trainer.callbacks": [SAVES, hangs(hook, "log nan", at_update=99)], "trainer.hook_timeout_s": None}
    finish(well, run_id="hung", resume="auto")


def test_a_hook_of_a_run_in_another_thread_is_interrupted_as_well(run, lab):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(run(hanging("after_update", "spin"))))
    thread.start()
    thread.join()
    assert "callback 'sleeper'" in outcomes[0].error.message


@pytest.mark.long
def test_a_hook_that_cannot_be_interrupted_ends_the_process_resumable(tiny_spec, lab, attempt, verified_updates):
    tiny_spec["trainer"] |= {"callbacks": [SAVES, hangs(action="deaf")], "hook_timeout_s": 1.0}
    Path("deaf.toml").write_text(tomli_w.dumps(tiny_spec | {"loader": {"num_workers": 1}}))
    command = [sys.executable, "-m", "noether", "run", "deaf.toml", "--run-id", "deaf"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1
    assert "cannot be interrupted" in ended.stderr
    assert "callback 'sleeper'" in ended.stderr
    run_dir = Path("runs/deaf")
    assert attempt(run_dir)["status"] == "FAILED"
    assert "callback 'sleeper'" in attempt(run_dir)["reason"]
    assert verified_updates(run_dir) == [2]


def test_many_short_hooks_are_no_hang(finish, lab):
    slow = {"kind": "lab.faults.Fault", "every_n_updates": 1, "hook": "none"}
    finish({"trainer.callbacks": [slow], "trainer.hook_timeout_s": 0.3, "trainer.max_epochs": 30})


@pytest.mark.parametrize(("place", "changes"), [("sample", NORMALIZE), ("sample", {}), ("constructor", {})])
def test_a_data_set_that_hangs_outside_of_a_loader_is_an_error_before_training(run, lab, capfd, place, changes):
    bad = 0 if not changes else 20
    train = {"kind": "lab.hanging.Hangs", "place": place, "bad": bad}
    with pytest.raises(DataError) as caught:
        run({"datasets.train": train, "loader.timeout": 1.0, **changes})
    assert "the data set 'train' takes too long" in caught.value.message
    assert place == "constructor" or f"sample {bad}" in caught.value.message
    assert "`timeout` under [loader]" in caught.value.hint
    assert "hanging.py" in capfd.readouterr().err
    assert not Path("runs").exists()


def test_statistics_of_many_samples_may_take_longer_than_one_sample(finish, lab):
    train = {"kind": "lab.hanging.Hangs", "place": "nowhere", "pause": 0.05}
    finish({"datasets.train": train, "loader.timeout": 0.5, "trainer.max_epochs": 1, **NORMALIZE})
