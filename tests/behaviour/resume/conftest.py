"""A run that fails once, and helpers to compare two runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.runs.outcome import Outcome

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_updates": 2, "dataset_key": "test"}
CALLBACKS = [
    OFFLINE_LOSS,
    {"kind": "best-checkpoint", "every_n_updates": 2, "metric_key": "loss/test/total", "tolerances": [1]},
    {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": [OFFLINE_LOSS]},
    {"kind": "checkpoint", "every_n_updates": 3},
]
FAILS = {"kind": "lab.failing.FailsOnce", "every_n_updates": 1, "at_update": 8}
SETTINGS = {
    "model.dropout": 0.2,
    "trainer.max_batch_size": 4,
    "trainer.track_every_n_updates": 2,
    "trainer.log_every_n_updates": 2,
    "checkpoints.keep_last": 9,
}


@pytest.fixture
def settings(lab: Path) -> dict[str, Any]:
    """A run with everything that has state, and a callback that fails after its eighth update, once."""
    return {**SETTINGS, "trainer.callbacks": [*CALLBACKS, FAILS]}


@pytest.fixture
def failed(run: Callable[..., Outcome], settings: dict[str, Any]) -> Outcome:
    """The run `mine`, which failed after update 8; its newest checkpoint is that of update 6."""
    outcome = run(settings, run_id="mine")
    assert outcome.status == "FAILED"
    return outcome


@pytest.fixture
def uninterrupted(finish: Callable[..., Outcome], settings: dict[str, Any]) -> Outcome:
    """The same run without the failure, in a folder of its own."""
    has_failed = Path("failed-once").exists()
    Path("failed-once").touch()
    outcome = finish(settings, run_id="uninterrupted")
    if not has_failed:
        Path("failed-once").unlink()
    return outcome


@pytest.fixture
def remains() -> Callable[[Outcome], dict[str, Any]]:
    """Return the comparable results of a run: the bytes of the last checkpoint, and the metrics without times."""

    def of(outcome: Outcome) -> dict[str, Any]:
        step = max((outcome.run_dir / "checkpoints").iterdir())
        files = {
            str(path.relative_to(step)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in step.rglob("*.safetensors")
        }
        files["rank"] = (step / "rank-00000.json").read_text()
        lines = [json.loads(line) for line in (outcome.run_dir / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            del line["time"]
            line["metrics"] = {k: v for k, v in line["metrics"].items() if not k.startswith("profiling/")}
        return {**files, "metrics": lines}

    return of
