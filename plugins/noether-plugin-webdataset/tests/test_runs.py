"""Whole runs: killed and resumed, with workers, on real digits."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

import noether
from noether.testing import tiny_spec

SPECS = Path(__file__).parents[1] / "specs"

CRASH = '''
import os, signal
from pathlib import Path
from noether.core.callbacks import CallbackBase

class Crash(CallbackBase):
    """Kills the process at the end of update 8, unless it has been killed before."""

    def track_after_update_step(self, *, update_counter, **_):
        if update_counter.update == 8 and os.environ.get("CRASH"):
            os.kill(os.getpid(), signal.SIGKILL)
'''


def last_checkpoint(folder: Path) -> dict[str, bytes]:
    """Return the files of the last checkpoint that hold the state of training."""
    newest = max(path for path in (folder / "checkpoints").iterdir() if path.name.startswith("step-"))
    return {path.name: path.read_bytes() for path in newest.rglob("*.safetensors")}


@pytest.mark.parametrize("loader", [1, pytest.param(3, marks=pytest.mark.long)])
def test_a_run_that_is_killed_ends_with_the_same_bytes(tiny_shards: Path, tmp_path: Path, loader: int):
    """Update 8 of 12 is in the second epoch, two updates after a checkpoint; the resumed run has workers."""
    module = f"crash_{tmp_path.name}"  # a process imports a module of one name from one project only
    (tmp_path / f"{module}.py").write_text(CRASH)
    (tmp_path / "pyproject.toml").touch()
    spec = tiny_spec(
        datasets={"train": {"kind": "webdataset", "shards": str(tiny_shards), "part": None}, "test": None},
        trainer={"callbacks": [{"kind": f"{module}.Crash"}, {"kind": "checkpoint", "every_n_updates": 6}]},
        output=str(tmp_path / "runs"),
    )
    path = tmp_path / "spec.toml"
    path.write_text(tomli_w.dumps(spec))
    command = [sys.executable, "-m", "noether", "run", str(path), "--run-id", "killed"]
    killed = subprocess.run(command, env={**os.environ, "CRASH": "1"}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = noether.run(path, run_id="killed", resume="auto", set={"loader.num_workers": loader}, quiet=True)
    straight = noether.run(path, run_id="straight", quiet=True)
    assert resumed.status == straight.status == "FINISHED"
    expected = last_checkpoint(straight.run_dir)
    assert len(expected) >= 2 and last_checkpoint(resumed.run_dir) == expected


@pytest.mark.long
def test_spawned_workers_load_the_same_samples(tiny_shards: Path, tiny_run):
    ends = []
    for loader in ({}, {"num_workers": 1, "start_method": "spawn"}):
        data = {"kind": "webdataset", "shards": str(tiny_shards), "part": None}
        outcome = tiny_run(
            datasets={"train": data, "test": None}, loader=loader, trainer={"max_updates": 2}, name=f"run-{len(ends)}"
        )
        ends.append(last_checkpoint(outcome.run_dir)["model.safetensors"])
    assert ends[0] == ends[1]


def test_the_smoke_spec_reads_digits_from_shards(tmp_path: Path):
    shutil.copy(SPECS / "smoke.toml", tmp_path)
    runpy.run_path(str(SPECS / "digits.py"))["write_digits"](tmp_path / "data" / "digits")
    outcome = noether.run(tmp_path / "smoke.toml", set={"output": str(tmp_path / "runs")}, quiet=True)
    assert outcome.error is None
    assert outcome.metrics["accuracy/test/label"] >= 0.95
