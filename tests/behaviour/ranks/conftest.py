"""Runs of several ranks on the CPU, each rank a process that the test starts."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import noether
from noether.errors import NoetherError
from noether.runs.outcome import RunInterrupted
from noether.testing import run_on_ranks, started_ranks

SAMPLES, BATCH = 240, 60


@dataclass(frozen=True)
class Trained:
    """The end of a run on one rank.

    Attributes:
        code: The exit code.
        error: The error with its help; None without one.
        run_dir: The run folder; None if none was made.
    """

    code: int
    error: str | None
    run_dir: Path | None

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The records of the run, without what is measured by the clock."""
        assert self.error is None and self.run_dir is not None, self.error
        records = map(json.loads, (self.run_dir / "metrics.jsonl").read_text().splitlines())
        return [
            {key: value for key, value in record["metrics"].items() if not key.startswith("profiling/")}
            for record in records
        ]

    @property
    def losses(self) -> np.ndarray[Any, Any]:
        """The loss of each update."""
        key = "loss/online/total"
        return np.array([record[key] for record in self.metrics if key in record])

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the newest checkpoint, without its manifest, which has the time, and the clocks in `trainer`."""
        assert self.run_dir is not None, self.error
        newest = max((self.run_dir / "checkpoints").glob("step-*"))
        left_out = ("manifest.json", "trainer.json", "spec.toml")
        paths = [path for path in newest.rglob("*") if path.is_file() and path.name not in left_out]
        return {path.relative_to(newest).as_posix(): path.read_bytes() for path in sorted(paths)}


def trained(spec: dict[str, Any], options: dict[str, Any]) -> Trained:
    """Run on one rank."""
    try:
        outcome = noether.run(spec, quiet=True, **options)
    except RunInterrupted as stop:
        outcome = stop.outcome
    except NoetherError as error:
        return Trained(error.exit_code, str(error), None)
    error = outcome.error
    return Trained(outcome.exit_code, None if error is None else f"{type(error).__name__}: {error}", outcome.run_dir)


@pytest.fixture
def train() -> Callable[[dict[str, Any], dict[str, Any]], Trained]:
    """The function that trains on one rank."""
    return trained


@pytest.fixture
def spec(lab: Path) -> dict[str, Any]:
    """A run of 240 samples and a batch of 60, of a model with a batch norm."""
    rng = np.random.default_rng(0)
    slope = rng.normal(size=(3, 2))
    for name, samples in (("train", SAMPLES), ("test", 31)):
        x = rng.normal(size=(samples, 3))
        np.savez(lab.parent / f"{name}.npz", x=x.astype("float32"), y_target=np.sin(x @ slope).astype("float32"))
    return {
        "name": "ranks",
        "device": "cpu",
        "threads": 1,
        "datasets": {key: {"kind": "file", "path": f"{key}.npz"} for key in ("train", "test")},
        "model": {"kind": "lab.ranks.Normed", "optimizer": {"kind": "AdamW", "lr": 0.01}},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": 20,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "log_every_n_updates": 1,
            "callbacks": [],
        },
        "trackers": [{"kind": "noop"}],
    }


@pytest.fixture
def on(spec: dict[str, Any]) -> Callable[..., list[Trained]]:
    """Train on some ranks: `on(3, {"trainer.max_updates": 4})` returns the end of each."""

    def run(
        world: int, changes: dict[str, Any] | None = None, environment: dict[str, str] | None = None, **options: Any
    ) -> list[Trained]:
        options = {"set": changes, **options}
        if world == 1:
            return [trained(spec, options)]
        return run_on_ranks(trained, world, spec, options, environment=environment)

    return run


@pytest.fixture
def started(spec: dict[str, Any]) -> Callable[..., AbstractContextManager[Any]]:
    """As `on`, for a test that looks at the ranks while they train, or at their exit codes."""

    def start(
        world: int,
        changes: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        within: float = 60.0,
        **options: Any,
    ) -> AbstractContextManager[Any]:
        call = partial(trained, spec, {"set": changes, **options})
        return started_ranks(call, world, environment=environment, within=within)

    return start
