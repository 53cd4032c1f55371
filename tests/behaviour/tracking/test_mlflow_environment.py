"""Variables of MLflow's own client are honoured as it honours them, or the log says that they are not."""

import base64
import logging

import pytest

import noether
from noether.metrics.tracker import TrackerRefusedError


@pytest.fixture
def opened(fake_server, make_tracker, make_run, caplog):
    caplog.set_level(logging.INFO)

    def open_with(run=None, **config):
        tracker = make_tracker(**({"tracking_uri": fake_server.address} | config))
        tracker.open(run or make_run(token="abc"))
        return fake_server.runs[tracker.mlflow_run_id]

    return open_with


@pytest.fixture
def set_variable(monkeypatch):
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "TRACKING_TOKEN", "TRACKING_USERNAME"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)
    return lambda name, value: monkeypatch.setenv(f"MLFLOW_{name}", value)


def test_the_tracking_uri_of_the_environment_is_the_store(set_variable, fake_server, opened):
    set_variable("TRACKING_URI", fake_server.address)
    assert opened(tracking_uri=None).status == "RUNNING"


def test_a_tracking_uri_of_the_spec_wins_and_the_log_says_so_once(set_variable, opened, caplog, make_tracker, make_run):
    set_variable("TRACKING_URI", "http://127.0.0.1:9")
    opened()
    (said,) = [message for message in caplog.messages if "MLFLOW_TRACKING_URI is ignored" in message]
    assert "tracking_uri is set" in said


def test_the_experiment_of_the_environment_is_used_by_name_or_id(set_variable, fake_server, opened):
    fake_server.experiments["7"] = "wings"
    set_variable("EXPERIMENT_NAME", "wings")
    assert opened().experiment == "7"
    set_variable("EXPERIMENT_ID", "7")
    assert opened().experiment == "7"
    set_variable("EXPERIMENT_NAME", "")
    assert opened().experiment == "7"


def test_a_name_that_does_not_exist_yet_is_created(set_variable, fake_server, opened):
    set_variable("EXPERIMENT_NAME", "new")
    assert fake_server.experiments[opened().experiment] == "new"


def test_variables_that_contradict_each_other_are_refused(set_variable, fake_server, opened):
    fake_server.experiments["7"] = "wings"
    set_variable("EXPERIMENT_NAME", "wings")
    set_variable("EXPERIMENT_ID", "1")
    with pytest.raises(TrackerRefusedError, match="contradict"):
        opened()


def test_an_experiment_id_that_does_not_exist_is_refused(set_variable, opened):
    set_variable("EXPERIMENT_ID", "99")
    with pytest.raises(TrackerRefusedError, match="MLFLOW_EXPERIMENT_ID = '99'"):
        opened()


def test_an_experiment_of_the_spec_wins_and_the_log_says_so(set_variable, fake_server, opened, caplog):
    fake_server.experiments["7"] = "wings"
    set_variable("EXPERIMENT_NAME", "wings")
    assert fake_server.experiments[opened(experiment="mine").experiment] == "mine"
    assert "MLFLOW_EXPERIMENT_NAME is ignored" in caplog.text


@pytest.fixture
def made_before(fake_server):
    """An MLflow run that something else has created."""
    tags = [{"key": "mlflow.runName", "value": "by hand"}]
    _, made = fake_server.act("runs/create", {"tags": tags, "experiment_id": "1"})
    return made["run"]["info"]["run_id"]


def test_the_run_of_the_environment_is_logged_to(set_variable, fake_server, opened, made_before):
    set_variable("RUN_ID", made_before)
    run = opened()
    assert (run.id, len(fake_server.runs)) == (made_before, 1)
    assert run.tags["mlflow.runName"] == "by hand"
    assert run.tags["noether.run_id"].startswith("digits-")
    assert run.params["trainer.max_epochs"] == "3"


def test_it_serves_one_run_only(set_variable, fake_server, opened, made_before, make_run, caplog):
    set_variable("RUN_ID", made_before)
    opened()
    other = opened(make_run("other", token="def"))
    assert other.id != made_before
    assert f"MLFLOW_RUN_ID = {made_before} is ignored" in caplog.text


def test_a_run_that_does_not_exist_is_refused(set_variable, opened):
    set_variable("RUN_ID", "0" * 32)
    with pytest.raises(TrackerRefusedError, match="MLFLOW_RUN_ID"):
        opened()


@pytest.mark.parametrize("variable", ["RUN_ID", "EXPERIMENT_ID"])
def test_a_run_that_would_deliver_nothing_ends_before_training(set_variable, fake_server, tiny_spec, variable):
    set_variable(variable, "0" * 32)
    trackers = [{"kind": "mlflow", "tracking_uri": fake_server.address}]
    outcome = noether.run(tiny_spec | {"trackers": trackers}, quiet=True)
    assert (outcome.status, outcome.exit_code) == ("FAILED", 2)
    assert f"MLFLOW_{variable}" in str(outcome.error)
    assert not list(outcome.run_dir.glob("checkpoints/step-*"))


def test_a_run_outside_of_the_experiment_of_the_spec_is_not_used(
    set_variable, fake_server, opened, made_before, caplog
):
    set_variable("RUN_ID", made_before)
    assert opened(experiment="mine").id != made_before
    assert "is not in the experiment 'mine'" in caplog.text


def test_a_resumed_run_stays_in_its_mlflow_run_and_says_so(
    set_variable, fake_server, opened, made_before, make_run, caplog
):
    first = opened()
    set_variable("RUN_ID", made_before)
    reference = {"store": fake_server.address, "run_id": first.id}
    assert opened(make_run(token="abc", reference=reference, attempt=2)).id == first.id
    assert "MLFLOW_RUN_ID is ignored" in caplog.text


@pytest.mark.parametrize("kind", ["token", "user and password"])
def test_credentials_of_the_environment_go_with_every_request(set_variable, fake_server, opened, kind):
    if kind == "token":
        set_variable("TRACKING_TOKEN", "tok-1234")
        expected = "Bearer tok-1234"
    else:
        set_variable("TRACKING_USERNAME", "me")
        set_variable("TRACKING_PASSWORD", "pass-1234")
        expected = "Basic " + base64.b64encode(b"me:pass-1234").decode()
    opened()
    assert set(fake_server.credentials) == {expected}


def test_an_id_of_the_environment_does_not_contradict_the_experiment_of_the_spec(set_variable, fake_server, opened):
    fake_server.experiments["7"] = "wings"
    set_variable("EXPERIMENT_NAME", "wings")
    set_variable("EXPERIMENT_ID", "1")
    assert opened(experiment="wings").experiment == "7"


def test_a_store_of_the_environment_that_mlflow_dropped_is_ignored_like_any_other(set_variable, opened, caplog):
    set_variable("TRACKING_URI", "./mlruns")
    assert opened().status == "RUNNING"
    assert "MLFLOW_TRACKING_URI is ignored" in caplog.text
