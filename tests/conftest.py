"""A tiny run for tests that need a whole one: 50 weights, 48 samples, milliseconds."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

import noether
from noether.runs.outcome import Outcome, RunInterrupted
from noether.testing import RecordingDevice, builders

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("no deadline")

TRAIN_SAMPLES, TEST_SAMPLES, BATCH = 48, 13, 8
SPECS = Path(__file__).parents[1] / "specs"
OF_PLUGINS = {SPECS / "darcy.toml"}  # tested by the packages in plugins/ that they need


def _require_answer(address: str, process: subprocess.Popen[bytes], timeout_s: float = 90) -> None:
    """Wait until a server answers a question that needs its database, which takes it long the first time."""
    question = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"mlflow server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(question, timeout=timeout_s):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("mlflow server did not start")


@contextmanager
def _mlflow_server(folder: Path) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        _require_answer(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="session")
def serve_mlflow() -> Callable[[Path], AbstractContextManager[str]]:
    """Start a real `mlflow server` on the loopback with its data in a folder: a context with its address.

    It ends with all of its processes.
    """
    return _mlflow_server


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_interrupts() -> None:
    """A shell's background job, such as CI may be, ignores SIGINT, and Python then leaves it so."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=sorted({*SPECS.rglob("*.toml")} - OF_PLUGINS), ids=lambda path: path.stem, scope="session")
def shipped_spec(request: pytest.FixtureRequest) -> Path:
    """Each spec of the repository that runs without a package of `plugins/`."""
    return request.param


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, no tracking server in sight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def tiny_spec(workplace: Path) -> dict[str, Any]:
    """A complete spec as a dict: a linear map of three numbers to two, six updates of eight samples an epoch."""
    return write_tiny_spec(workplace)


@pytest.fixture(scope="session")
def four_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four runs with evaluations: two learning rates with two seeds each. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("four")
    spec = write_tiny_spec(folder)
    spec["datasets"] = {key: {"kind": "file", "path": str(folder / f"{key}.npz")} for key in spec["datasets"]}
    evaluations = [
        {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
        {"kind": "offline-metrics", "every_n_epochs": 1, "dataset_key": "test", "metrics": {"y": ["rmse", "r2"]}},
        {"kind": "checkpoint", "every_n_epochs": 1},
    ]
    for rate in ("0.01", "0.001"):
        for seed in (0, 1):
            changes = {"seed": seed, "model.optimizer.lr": float(rate), "trainer.callbacks": evaluations}
            changes["output"] = str(folder / "runs")
            noether.run(spec, set=changes, run_id=f"lr{rate}-seed{seed}", quiet=True)
    return folder / "runs"


def write_tiny_spec(workplace: Path) -> dict[str, Any]:
    """Write the data of the tiny run to a folder, and return its spec."""
    rng = np.random.default_rng(0)
    slope = rng.normal(size=(3, 2))
    for name, samples in (("train", TRAIN_SAMPLES), ("test", TEST_SAMPLES)):
        x = rng.normal(size=(samples, 3))
        np.savez(workplace / f"{name}.npz", x=x.astype("float32"), y_target=(x @ slope).astype("float32"))
    return {
        "name": "tiny",
        "device": "cpu",
        "threads": 1,
        "datasets": {key: {"kind": "file", "path": f"{key}.npz"} for key in ("train", "test")},
        "model": {"kind": "mlp", "hidden": [8], "optimizer": {"kind": "AdamW", "lr": 0.01}},
        "trainer": {
            "kind": "weighted-loss",
            "max_epochs": 2,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
        },
        "trackers": [{"kind": "noop"}],
    }


@pytest.fixture
def run(tiny_spec: dict[str, Any]) -> Callable[..., Outcome]:
    """Runs the tiny spec with some values changed: `run({"trainer.max_updates": 3, "trainer.max_epochs": None})`."""

    def run_with(changes: dict[str, Any] | None = None, **options: Any) -> Outcome:
        try:
            return noether.run(tiny_spec, set=changes, quiet=True, **options)
        except RunInterrupted as stop:
            return stop.outcome

    return run_with


@pytest.fixture
def finish(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """As `run`, for runs that have to come to a good end."""

    def finished(changes: dict[str, Any] | None = None, **options: Any) -> Outcome:
        outcome = run(changes, **options)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.status == "FINISHED"
        return outcome

    return finished


@pytest.fixture
def metric_lines() -> Callable[[Outcome], list[dict[str, Any]]]:
    """Reads a run's `metrics.jsonl`."""

    def read(outcome: Outcome) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (outcome.run_dir / "metrics.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def final_weights() -> Callable[[Outcome], bytes]:
    """Reads the bytes of `model.safetensors` in a run's newest checkpoint."""

    def read(outcome: Outcome) -> bytes:
        newest = max((outcome.run_dir / "checkpoints").glob("step-*"))
        return (newest / "model.safetensors").read_bytes()

    return read


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Publish figures of a test: `figures("kills", survived=40, attempted=40, seconds=[0.1, 0.2])`.

    It becomes a property of the test in pytest's report, where `docs/reliability_figures.py` adds up the numbers of
    equal names and joins the lists for the table in docs/explanation/reliability.md.
    """

    def publish(name: str, **values: float | list[float]) -> None:
        record_property(name, json.dumps(values))

    return publish


@pytest.fixture
def graphs_on_cpu() -> Iterator[RecordingDevice]:
    """A stand-in of a device with graphs."""
    with builders.graphs_on_cpu() as stand_in:
        yield stand_in
