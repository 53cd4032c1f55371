import pytest

from noether.core.trackers.mlflow.store import kept_store, resolve_store, run_link, ui_command
from noether.errors import PluginError
from noether.metrics.tracker import TrackerSettingError


def test_without_anything_said_it_is_mlflow_db_in_the_working_folder(tmp_path):
    store = resolve_store(None, {}, tmp_path)
    assert store.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert ui_command(store) == "mlflow ui"


def test_the_environment_comes_before_the_default_and_the_config_before_the_environment(tmp_path):
    environment = {"MLFLOW_TRACKING_URI": "http://there:5000"}
    assert resolve_store(None, environment, tmp_path).uri == "http://there:5000"
    assert resolve_store("http://here:5000/", environment, tmp_path).uri == "http://here:5000"


def test_a_relative_database_is_made_absolute(tmp_path):
    store = resolve_store("sqlite:///results/runs.db", {}, tmp_path)
    assert store.database == tmp_path / "results" / "runs.db"
    assert store.uri == f"sqlite:///{tmp_path}/results/runs.db"
    assert ui_command(store) == f"mlflow ui --backend-store-uri {store.uri}"


def test_an_absolute_database_stays(tmp_path):
    assert resolve_store("sqlite:////data/runs.db", {}, tmp_path).uri == "sqlite:////data/runs.db"


@pytest.mark.parametrize("uri", ["file:./mlruns", "file:///data/mlruns", "mlruns", "/data/mlruns", "./mlruns"])
def test_a_store_in_plain_files_is_refused_with_the_way_out(tmp_path, uri):
    with pytest.raises(PluginError) as caught:
        resolve_store(uri, {}, tmp_path)
    assert "mlflow migrate-filestore --source" in caught.value.hint
    assert "tracking_uri" in caught.value.message


def test_an_address_that_mlflow_does_not_know_is_refused(tmp_path):
    with pytest.raises(PluginError) as caught:
        resolve_store(None, {"MLFLOW_TRACKING_URI": "ftp://x"}, tmp_path)
    assert "MLFLOW_TRACKING_URI = 'ftp://x'" in caught.value.message


def test_old_runs_beside_the_database_need_the_long_command(tmp_path):
    (tmp_path / "mlruns").mkdir()
    assert ui_command(resolve_store(None, {}, tmp_path)).startswith("mlflow ui --backend-store-uri sqlite:////")


def test_links_open_the_curves_in_the_mode_for_training(tmp_path):
    server = resolve_store("https://mlflow.example/team", {}, tmp_path)
    page = "/#/experiments/3/runs/abc/model-metrics?workflowType=machine_learning"
    assert run_link(server, "3", "abc") == f"https://mlflow.example/team{page}"
    assert run_link(resolve_store(None, {}, tmp_path), "3", "abc") == f"http://127.0.0.1:5000{page}"
    assert ui_command(server) is None


def test_a_password_is_not_shown(tmp_path):
    store = resolve_store("https://me:secret@mlflow.example", {}, tmp_path)
    assert "secret" not in run_link(store, "3", "abc") + store.shown_uri
    database = resolve_store("postgresql://me:secret@db/runs", {}, tmp_path)
    assert "secret" not in ui_command(database)


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_a_run_folder_holds_no_database(tmp_path, inside):
    run = tmp_path / "runs" / "mine"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").touch()
    (run / "mlflow.db").symlink_to(tmp_path / "history.db")
    store = resolve_store(None, {}, run / inside)
    assert store.database == tmp_path / "runs" / "mlflow.db"
    assert not store.is_default
    store.database.symlink_to(tmp_path / "history.db")
    with pytest.raises(PluginError, match="is a link"):
        resolve_store(None, {}, run / inside)
    assert resolve_store(None, {}, tmp_path / "runs").is_default  # a link in the user's own working folder


@pytest.mark.parametrize(
    ("kept", "own"),
    [
        ("http://mlflow.example", "http://mlflow.example"),
        ("sqlite:////somewhere/runs.db", "sqlite:////somewhere/runs.db"),
        ("sqlite:///{}/mlflow.db", None),  # of another working folder
    ],
)
def test_a_run_continues_in_the_users_store_or_in_the_database_above_it(tmp_path, kept, own):
    run = tmp_path / "runs" / "mine"
    kept = kept.format(tmp_path)
    assert kept_store(kept, resolve_store(own, {}, tmp_path / "other"), run).shown_uri == kept


@pytest.mark.parametrize("kept", ["http://mlflow.example", "sqlite:////home/me/history.db", "sqlite:///{}/x/mlflow.db"])
def test_a_store_that_only_a_run_folder_names_gets_nothing(tmp_path, kept):
    with pytest.raises(TrackerSettingError) as raised:
        kept_store(kept.format(tmp_path), resolve_store(None, {}, tmp_path), tmp_path / "runs" / "mine")
    assert f"MLFLOW_TRACKING_URI={kept.format(tmp_path)}" in raised.value.hint
