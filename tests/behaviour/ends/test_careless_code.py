"""Callbacks that end the process, and signals that arrive outside of training."""

import signal


def test_a_callback_that_exits_fails_the_run_and_leaves_true_records(run, lab, attempt):
    outcome = run({"trainer.callbacks": [{"kind": "lab.callbacks.Quits", "every_n_updates": 2}]})
    assert (outcome.status, outcome.exit_code) == ("FAILED", 1)
    assert isinstance(outcome.error, SystemExit)
    assert attempt(outcome)["status"] == "FAILED"


def test_sigterm_lets_an_evaluation_without_training_come_to_its_end(run, lab, attempt):
    callback = {"kind": "lab.callbacks.Signals", "every_n_epochs": 1, "numbers": [int(signal.SIGTERM)], "at_update": 0}
    outcome = run({"trainer.max_epochs": 0, "trainer.callbacks": [callback]})
    assert (outcome.status, outcome.exit_code) == ("FINISHED", 0)
    assert attempt(outcome)["status"] == "FINISHED"


def test_the_log_file_says_why_a_run_failed(run):
    outcome = run({"expect": {"model/parameters": {"max": 1.0}}})
    assert outcome.exit_code == 1
    assert "model/parameters = 50, expected at most 1" in (outcome.run_dir / "log.txt").read_text()


def test_run_plugins_may_come_from_an_iterator(run, lab):
    outcome = run(plugins=iter(["lab.plugin"]))
    assert "too late" in (outcome.run_dir / "log.txt").read_text()  # what the plugin raises in its only hook
