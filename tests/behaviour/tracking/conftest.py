import importlib.util
import shutil
import warnings
from pathlib import Path

import pytest

from noether.core.trackers import RunDescription
from noether.core.trackers.mlflow import MlflowTracker, MlflowTrackerConfig
from noether.core.trackers.mlflow.client import quiet_mlflow, set_process_defaults
from noether.metrics.metrics_file import MetricRecord

NOLOAD = "The ``noload`` loader strategy is deprecated"
"""MLflow's own models say this of themselves to SQLAlchemy 2.1."""


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory):
    """A SQLite store that MLflow has set up; that takes seconds, copying it nothing."""
    folder = tmp_path_factory.mktemp("migrated")
    set_process_defaults()
    with warnings.catch_warnings(), quiet_mlflow():
        warnings.filterwarnings("ignore", message=NOLOAD)
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def database(migrated_database, tmp_path, monkeypatch):
    """A working folder with a store of its own in `mlflow.db`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated_database, tmp_path / "mlflow.db")
    return tmp_path / "mlflow.db"


@pytest.fixture
def make_tracker():
    def make(**config):
        return MlflowTracker(MlflowTrackerConfig(kind="mlflow", **config))

    return make


@pytest.fixture
def make_run(tmp_path):
    def make(run_id="digits-20250101-120000-abcd", **fields):
        run_dir = tmp_path / "runs" / run_id
        run_dir.mkdir(parents=True, exist_ok=True)
        for name in ("spec.toml", "spec.resolved.toml"):
            (run_dir / name).write_text(f"# {name}\n")
        fields = {
            "params": {"trainer.max_epochs": "3", "trainer.callbacks.0.kind": "ema"},
            "spec_path": run_dir / "spec.toml",
            "resolved_spec_path": run_dir / "spec.resolved.toml",
            "summary": "Digits, 3 epochs.",
        } | fields
        return RunDescription(run_id=run_id, name="digits", run_dir=run_dir, **fields)

    return make


@pytest.fixture(scope="session")
def fake_server_class():
    """The class of `fake_server.py`, which lies beside this file."""
    specification = importlib.util.spec_from_file_location("fake_server", Path(__file__).with_name("fake_server.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.FakeServer


@pytest.fixture
def fake_server(fake_server_class, tmp_path):
    """A server on the loopback that misbehaves on demand."""
    import mlflow  # noqa: F401  # its import is not what is measured

    fake = fake_server_class(tmp_path / "artifacts")
    yield fake
    fake.down()


@pytest.fixture
def records():
    return [
        MetricRecord(update, 0, update * 8, 1_700_000_000.0 + update, {"loss/test/total": 1.0 / update})
        for update in (1, 2, 3)
    ]


@pytest.fixture(scope="session")
def server(serve_mlflow, migrated_database, tmp_path_factory):
    """The address of a real `mlflow server` on the loopback."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated_database, folder / "mlflow.db")
    with serve_mlflow(folder) as address:
        yield address
