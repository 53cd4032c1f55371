"""Checkpoints are mirrored to another store, and a run goes on from there on a machine without its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import noether
from noether.checkpoint.paths import checkpoint_folders
from noether.errors import CheckpointError, StorageError, UsageError
from noether.runs.mirror import feed, fetch
from noether.runs.mirror.store import Store
from noether.runs.outcome import Outcome
from noether.runs.resume.resume import resume

pytest.importorskip("fsspec")


@pytest.fixture
def mirrored(settings: dict[str, Any], workplace: Path) -> dict[str, Any]:
    """The settings of a run with a mirror in a folder."""
    return {**settings, "checkpoints.mirror": f"file://{workplace}/mirror", "checkpoints.mirror_timeout_s": 20}


@pytest.fixture
def store(mirrored: dict[str, Any]) -> Store:
    """The mirror of the run `mine`."""
    return Store(mirrored["checkpoints.mirror"], "mine")


@pytest.fixture
def lost(run: Callable[..., Outcome], mirrored: dict[str, Any]) -> Outcome:
    """The run `mine`, which failed after update 8; its machine is gone, and only the mirror is left."""
    outcome = run(mirrored, run_id="mine")
    assert outcome.status == "FAILED"
    shutil.rmtree(outcome.run_dir)
    return outcome


def updates_in(run: Path) -> list[int]:
    return [int(folder.name.removeprefix("step-")) for folder in checkpoint_folders(run / "checkpoints")]


def test_a_run_goes_on_from_its_mirror_and_ends_with_the_same_bytes(
    lost, finish, mirrored, uninterrupted, remains, store
):
    resumed = finish(mirrored, run_id="mine", resume="auto")
    assert remains(resumed) == remains(uninterrupted)
    assert updates_in(resumed.run_dir) == store.updates()


def test_resume_takes_the_address_of_a_run_in_a_mirror(lost, mirrored, uninterrupted, remains, store):
    resumed = resume(f"{mirrored['checkpoints.mirror']}/mine", quiet=True)
    assert remains(resumed) == remains(uninterrupted)
    assert updates_in(resumed.run_dir) == store.updates()
