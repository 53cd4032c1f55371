"""A project with tiny data and a spec that says nothing of a sweep; sweeps of it run in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

SPEC = """\
name = "tiny"
device = "cpu"
threads = 1
datasets = { train = { kind = "file", path = "train.npz" }, test = { kind = "file", path = "test.npz" } }
trackers = [{ kind = "noop" }]

[model]
kind = "mlp"
hidden = [8]
optimizer = { kind = "AdamW", lr = 0.01 }

[trainer]
kind = "weighted-loss"
max_epochs = 3
effective_batch_size = 8
forward_properties = ["x"]
target_properties = ["y_target"]
field_weights = { y = 1.0 }
loss_fn = "mse"

[[trainer.callbacks]]
kind = "offline-loss"
every_n_epochs = 1
dataset_key = "test"
"""


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


def make_project(folder: Path) -> Path:
    """Write data and spec into a folder."""
    rng = np.random.default_rng(0)
    slope = rng.normal(size=(3, 2))
    for name, samples in (("train", 48), ("test", 13)):
        x = rng.normal(size=(samples, 3))
        np.savez(folder / f"{name}.npz", x=x.astype("float32"), y_target=(x @ slope).astype("float32"))
    (folder / "pyproject.toml").touch()  # the root of the project
    (folder / "tiny.toml").write_text(SPEC)
    return folder


@pytest.fixture
def project(workplace: Path) -> Path:
    """The working folder as a project with a spec `tiny.toml`."""
    return make_project(workplace)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project for all tests of a module; the working folder stays."""
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def command_in() -> Callable[..., Ended]:
    """Runs the command `noether` in a folder, in a process of its own."""

    def command(folder: Path, *arguments: str) -> Ended:
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        words = [sys.executable, "-m", "noether", *arguments]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        return Ended(done.returncode, done.stdout, done.stderr)

    return command
