"""Fixtures that read the files of a run, shared with the tests of its ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.runs.outcome import Outcome


@pytest.fixture
def attempt() -> Callable[..., dict[str, Any]]:
    """Read the record of an attempt at a run, by default the first."""

    def read(run: Outcome | Path, number: int = 1) -> dict[str, Any]:
        folder = run.run_dir if isinstance(run, Outcome) else run
        record: dict[str, Any] = json.loads((folder / f"attempts/{number:04d}.json").read_text())
        return record

    return read


@pytest.fixture
def verified_updates() -> Callable[[Path], list[int]]:
    """Reads every checkpoint of a run, each byte checked, and returns their updates."""

    def read(run_dir: Path) -> list[int]:
        return [read_checkpoint(step)[0].update for step in checkpoint_folders(run_dir / "checkpoints")]

    return read
