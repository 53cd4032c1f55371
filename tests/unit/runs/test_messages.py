"""The wording of the errors of runs, in one place; other tests look at types and facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noether.checkpoint.paths import PathProvider
from noether.runs.folder.lock import RunLock
from noether.runs.folder.run_folder import RunFolder, checked_run_id, find_run
from noether.runs.launch import run
from noether.runs.mirror.fetch import fetch_run
from noether.runs.mirror.store import Store
from noether.runs.outcome import check_expectations
from noether.runs.results.checkpoints import find_checkpoint
from noether.runs.resume.changes import require_same_mathematics
from noether.runs.resume.resume import resume
from noether.runs.saved_spec import read_saved_spec
from noether.spec.model import Expectation

BEFORE = {"trainer": {"effective_batch_size": 8}, "seed": 0}
NOW = {"trainer": {"effective_batch_size": 16}, "seed": 1}


def locked_twice(folder: Path) -> None:
    with RunLock(folder), RunLock(folder):
        pass


def stranger(folder: Path) -> Path:
    run = folder / "runs" / "stranger"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "spec.resolved.toml").write_text('[checkpoints]\nmirror = "s3://bucket/runs"\n')
    return run


def test_messages(golden: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "run.json").write_text("{}")
    (tmp_path / "file").write_text("")
    paths = PathProvider(tmp_path / "runs", "first")
    bounds = {"loss/test/total": Expectation(max=0.0), "rmse/test/y": Expectation(min=1.0)}
    golden(
        {
            "a resume without a run": lambda: run({}, resume="auto"),
            "a run id": lambda: checked_run_id("../a", "runs"),
            "an unknown run": lambda: find_run("frist", tmp_path / "runs"),
            "a folder that is not a run": lambda: find_run(tmp_path),
            "a run that exists": lambda: RunFolder(paths).create(),
            "a file as folder of runs": lambda: RunFolder(PathProvider(tmp_path / "file", "a")).create(),
            "a run in use": lambda: locked_twice(tmp_path),
            "a run without a spec": lambda: read_saved_spec(paths),
            "a run without checkpoints": lambda: find_checkpoint([], "latest"),
            "a change that alters training": lambda: require_same_mathematics(BEFORE, NOW),
            "a password in the address of a run": lambda: fetch_run("sftp://me:hunter22@host/mine", tmp_path),
            "an address without a run": lambda: fetch_run("memory://nothing/mine", tmp_path),
            "a run that is here already": lambda: fetch_run("memory://nothing/first", tmp_path / "runs"),
            "a kind of store that nobody knows": lambda: Store("nonsense://bucket", "mine").require_usable(),
            "a mirror that only the run folder names": lambda: resume(stranger(tmp_path)),
            "broken expectations": lambda: check_expectations(bounds, {"loss/test/total": 0.5}),
        }
    )
