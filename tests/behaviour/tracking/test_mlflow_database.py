import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from noether.core.trackers import TrackerError, TrackerRefusedError
from noether.metrics.metrics_file import MetricRecord

# MLflow's own models use what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def look(tracker):
    return tracker.client.get_run(tracker.mlflow_run_id)


def files(tracker, folder=None):
    return sorted(item.path for item in tracker.client.list_artifacts(tracker.mlflow_run_id, folder))


def test_a_finished_run_has_its_curves_parameters_and_spec(database, make_tracker, make_run, records):
    tracker = make_tracker()
    tracker.open(make_run())
    tracker.log_metrics(records)
    tracker.close("FINISHED", None)
    run = look(tracker)
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert run.info.run_name == "digits-20250101-120000-abcd"
    assert run.data.params == {"trainer.max_epochs": "3", "trainer.callbacks.0.kind": "ema"}
    assert run.data.tags["noether.run_id"] == "digits-20250101-120000-abcd"
    assert run.data.tags["mlflow.note.content"] == "Digits, 3 epochs."
    curve = tracker.client.get_metric_history(tracker.mlflow_run_id, "Evaluation/loss test total")
    assert [(point.step, point.value, point.timestamp) for point in curve] == [
        (1, 1.0, 1_700_000_001_000),
        (2, 0.5, 1_700_000_002_000),
        (3, 1 / 3, 1_700_000_003_000),
    ]
    assert files(tracker, "spec") == ["spec/spec.resolved.toml", "spec/spec.toml"]


def test_the_experiment_is_the_specs_name_and_its_files_lie_beside_the_database(
    database, make_tracker, make_run, tmp_path
):
    tracker = make_tracker()
    tracker.open(make_run())
    tracker.close("FINISHED", None)
    experiment = tracker.client.get_experiment_by_name("digits")
    assert experiment.experiment_id == tracker.experiment_id
    assert experiment.artifact_location == str(tmp_path / "mlartifacts" / "digits")
    assert list((tmp_path / "mlartifacts" / "digits").rglob("spec.toml"))
    assert not (tmp_path / "mlruns").exists()


def test_names_in_the_spec_come_before_the_defaults(database, make_tracker, make_run):
    tracker = make_tracker(experiment="airfoils", run_name="first try")
    tracker.open(make_run())
    tracker.close("FINISHED", None)
    assert tracker.client.get_experiment_by_name("airfoils").experiment_id == tracker.experiment_id
    assert look(tracker).info.run_name == "first try"


def test_a_failed_run_keeps_its_error(database, make_tracker, make_run):
    tracker = make_tracker()
    tracker.open(make_run())
    tracker.close("FAILED", "Traceback …\nValueError: boom")
    run = look(tracker)
    assert run.info.status == "FAILED"
    assert run.data.tags["noether.error"].endswith("ValueError: boom")
    assert "error.txt" in files(tracker)


def test_a_run_that_was_stopped_is_killed(database, make_tracker, make_run):
    tracker = make_tracker()
    tracker.open(make_run())
    tracker.close("KILLED", None)
    assert look(tracker).info.status == "KILLED"


def test_a_later_attempt_continues_the_same_run(database, make_tracker, make_run, records):
    first = make_tracker()
    first.open(make_run())
    first.log_metrics(records[:2])
    first.close("KILLED", None)
    second = make_tracker()
    second.open(make_run(reference=first.reference, attempt=2, params={"trainer.max_epochs": "5", "new": "1"}))
    assert look(second).info.status == "RUNNING"
    second.log_metrics(records[2:])
    second.close("FINISHED", None)
    assert second.mlflow_run_id == first.mlflow_run_id
    run = look(second)
    assert run.info.status == "FINISHED"
    assert run.data.params["trainer.max_epochs"] == "3"
    assert run.data.params["new"] == "1"
    assert run.data.params["attempt/2/trainer.max_epochs"] == "5"
    assert run.data.tags["noether.attempt"] == "2"
    assert len(second.client.get_metric_history(second.mlflow_run_id, "Evaluation/loss test total")) == 3


def test_the_same_records_sent_twice_are_kept_once(database, make_tracker, make_run, records):
    tracker = make_tracker()
    tracker.open(make_run())
    tracker.log_metrics(records)
    tracker.log_metrics(records)
    assert len(tracker.client.get_metric_history(tracker.mlflow_run_id, "Evaluation/loss test total")) == 3
    tracker.close("FINISHED", None)


def test_prefixed_keys_and_odd_numbers_arrive(database, make_tracker, make_run):
    tracker = make_tracker()
    tracker.open(make_run())
    values = {"ema=0.9999/loss/test/total": 0.5, "odd": math.nan, "huge": math.inf}
    tracker.log_metrics([MetricRecord(1, 0, 8, 1_700_000_000.0, values)])
    tracker.close("FINISHED", None)
    run = look(tracker)
    assert run.data.metrics["Evaluation/ema:0.9999 loss test total"] == 0.5
    assert math.isnan(run.data.metrics["Evaluation/odd"])
    assert "Evaluation/huge" not in run.data.metrics
    assert run.data.tags["noether.infinite_values_left_out"] == "1"


def test_more_than_a_batch_of_metrics_and_parameters_arrives(database, make_tracker, make_run):
    tracker = make_tracker()
    tracker.open(make_run(params={f"p{index}": str(index) for index in range(250)}))
    tracker.log_metrics([MetricRecord(1, 0, 8, 1.0, {f"m{index}": float(index) for index in range(2300)})])
    tracker.close("FINISHED", None)
    run = look(tracker)
    assert len(run.data.params) == 250
    assert len(run.data.metrics) == 2300


def test_a_deleted_experiment_says_how_to_restore_it(database, make_tracker, make_run):
    first = make_tracker()
    first.open(make_run())
    first.close("FINISHED", None)
    first.client.delete_experiment(first.experiment_id)
    with pytest.raises(TrackerRefusedError) as caught:
        make_tracker().open(make_run("second"))
    assert "mlflow experiments restore" in caught.value.hint


def test_a_run_whose_creation_was_answered_too_late_is_not_created_twice(database, make_tracker, make_run):
    tracker = make_tracker()
    tracker.open(make_run())
    created, tracker.mlflow_run_id = tracker.mlflow_run_id, None  # as if the answer had been lost
    tracker.open(make_run())
    assert tracker.mlflow_run_id == created
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 1
    tracker.close("FINISHED", None)


def test_a_run_that_was_deleted_meanwhile_is_not_asked_for_again(database, make_tracker, make_run, records):
    tracker = make_tracker()
    tracker.open(make_run())
    tracker.client.delete_run(tracker.mlflow_run_id)
    with pytest.raises(TrackerRefusedError):
        tracker.log_metrics(records)


def test_before_it_is_open_the_client_says_so(database, make_tracker, records):
    tracker = make_tracker()
    assert (tracker.url, tracker.reference) == (None, {"store": tracker.store.uri})
    with pytest.raises(TrackerError):
        tracker.log_metrics(records)


def test_system_metrics_are_recorded_when_asked_for(database, make_tracker, make_run, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    tracker = make_tracker(log_system_metrics=True)
    tracker.open(make_run())
    end = time.monotonic() + 20
    while not any(key.startswith("system/") for key in look(tracker).data.metrics):
        assert time.monotonic() < end, "no system metric came"
        time.sleep(0.05)
    tracker.close("FINISHED", None)
    assert capfd.readouterr() == ("", "")


def test_tracking_leaves_the_process_as_it_was(database, make_tracker, make_run, records):
    import mlflow

    def state():
        settings = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_DISABLE")}
        generators = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        return settings, generators, mlflow.get_tracking_uri(), mlflow.active_run()

    before = state()
    tracker = make_tracker(experiment="another")
    tracker.open(make_run())
    tracker.log_metrics(records)
    tracker.close("FINISHED", None)
    assert state() == before


@pytest.mark.slow
def test_processes_that_create_one_fresh_store_at_once_all_succeed(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from noether.core.trackers import RunDescription\n"
        "from noether.core.trackers.mlflow import MlflowTracker, MlflowTrackerConfig\n"
        "tracker = MlflowTracker(MlflowTrackerConfig(kind='mlflow', experiment='shared'))\n"
        "sys.stdin.readline()\n"
        "tracker.open(RunDescription(sys.argv[1], 'n', Path.cwd()))\n"
        "tracker.close('FINISHED', None)\n"
        "print(tracker.experiment_id)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, f"run-{index}"],
            cwd=tmp_path, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(3)
    ]  # fmt: skip
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], [error for _, error in answers]
    assert len({output for output, _ in answers}) == 1
    assert [error for _, error in answers] == ["", "", ""]  # nor does the creation fill the output
    assert Path(tmp_path / "mlflow.db").exists()
