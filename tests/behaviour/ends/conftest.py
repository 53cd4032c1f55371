import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.runs.outcome import Outcome


@pytest.fixture
def attempt() -> Callable[[Outcome | Path], dict[str, Any]]:
    """Read the record of the first attempt at a run."""

    def read(run: Outcome | Path) -> dict[str, Any]:
        folder = run.run_dir if isinstance(run, Outcome) else run
        record: dict[str, Any] = json.loads((folder / "attempts/0001.json").read_text())
        return record

    return read


@pytest.fixture
def verified_updates() -> Callable[[Path], list[int]]:
    """Reads every checkpoint of a run, each byte checked, and returns their updates."""

    def read(run_dir: Path) -> list[int]:
        return [read_checkpoint(step)[0].update for step in checkpoint_folders(run_dir / "checkpoints")]

    return read


@pytest.fixture
def bad_sample(tiny_spec: dict[str, Any]) -> int:
    """Put a NaN in one training sample of the tiny spec; return its index."""
    arrays = dict(np.load("train.npz"))
    arrays["y_target"][20] = np.nan
    np.savez("train.npz", **arrays)
    return 20
