"""A run does not depend on the clock, the locale, the umask, the working folder or the hashes of texts."""

import json
import locale
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import noether
from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.runs.outcome import Outcome

DAY = 86_400.0
CALLBACKS = [
    {"kind": "online-loss", "every_n_updates": 2},
    {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"},
    {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"},
    {"kind": "ema", "every_n_updates": 3, "target_factors": [0.5, 0.9]},
    {"kind": "checkpoint", "every_n_updates": 2},
]
MOVER = '''
"""A callback that changes what surrounds the run while it trains."""
import locale, os, time
from noether.core.callbacks.periodic import PeriodicCallback


class Mover(PeriodicCallback):
    def periodic_callback(self, *, interval_type, update_counter):
        how = os.environ["MOVE"]
        if update_counter.update != 5:
            return
        if how == "cwd":
            os.makedirs("/tmp/noether-mover", exist_ok=True)
            os.chdir("/tmp/noether-mover")
        elif how == "umask":
            os.umask(0o077)
        elif how == "locale":
            for name in ("de_DE.UTF-8", "tr_TR.UTF-8", "C", "POSIX"):
                try:
                    locale.setlocale(locale.LC_ALL, name)
                except locale.Error:
                    continue
            os.environ["LC_ALL"] = os.environ["LANG"] = "C"
'''


@pytest.fixture
def mover(tiny_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Path("mover.py").write_text(MOVER)
    path, place, was = list(sys.path), Path.cwd(), locale.setlocale(locale.LC_ALL)
    mask = os.umask(0o022)
    yield
    os.chdir(place)
    os.umask(mask)
    locale.setlocale(locale.LC_ALL, was)
    sys.path[:] = path
    sys.modules.pop("mover", None)


def files_of(run_dir: Path) -> dict[str, bytes]:
    """Return every file of all steps but the position in the metrics file, and the metrics without their times."""
    found = {}
    for step in checkpoint_folders(run_dir / "checkpoints"):
        _, files = read_checkpoint(step)
        state = json.loads(files["trainer.json"])
        state["trainer"].pop("log_writer", None)  # how long the seconds in it are written
        files["trainer.json"] = json.dumps(state).encode()
        found |= {f"{step.name}/{name}": data for name, data in files.items()}
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    for number, line in enumerate(lines):
        record = json.loads(line)
        del record["time"]
        kept = {key: value for key, value in record["metrics"].items() if not key.startswith("profiling/")}
        found[f"metrics {number}"] = json.dumps(record | {"metrics": kept}).encode()
    return found


def times_of(outcome: Outcome) -> list[float]:
    return [json.loads(line)["time"] for line in (outcome.run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("jump", [DAY, -DAY, -3 * 10**9], ids=["a day on", "a day back", "before 1970"])
def test_a_clock_that_is_set_while_a_run_trains_changes_nothing(  # L1
    finish: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, jump: float
):
    changes = {"trainer.callbacks": CALLBACKS, "checkpoints.keep_last": 20}
    straight = finish(changes, run_id="straight")
    real, calls = time.time, 0

    def set_clock() -> float:
        nonlocal calls
        calls += 1
        return real() + (jump if calls > 12 else 0.0)

    with monkeypatch.context() as moved_clock:
        moved_clock.setattr(time, "time", set_clock)
        outcome = finish(changes, run_id="moved")
    assert calls > 12
    moved, kept = files_of(outcome.run_dir), files_of(straight.run_dir)
    assert moved.keys() == kept.keys()
    assert [name for name in kept if kept[name] != moved[name]] == []
    times = times_of(outcome)
    assert times == sorted(times)
    assert times[0] >= 0


@pytest.mark.parametrize("how", ["cwd", "umask", "locale"])
def test_surroundings_that_change_while_a_run_trains_change_nothing(  # L2
    mover: None, finish: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, how: str
):
    place = Path.cwd()
    changes = {
        "trainer.callbacks": [{"kind": "mover.Mover", "every_n_updates": 1}, *CALLBACKS],
        "checkpoints.keep_last": 20,
    }
    monkeypatch.setenv("MOVE", "nothing")
    straight = finish(changes, run_id="straight")
    monkeypatch.setenv("MOVE", how)
    outcome = finish(changes, run_id="moved")
    os.chdir(place)
    assert files_of(outcome.run_dir).keys() == files_of(straight.run_dir).keys()
    assert {path.name for path in outcome.run_dir.iterdir()} == {path.name for path in straight.run_dir.iterdir()}
    assert not list(Path("/tmp/noether-mover").glob("**/*")) if how == "cwd" else True
    attempt = json.loads((outcome.run_dir / "attempts/0001.json").read_bytes())
    assert attempt["status"] == "FINISHED"


SCRIPT = """
import sys, tomllib
import noether
import pathlib
spec = tomllib.loads(pathlib.Path("tiny.toml").read_text(encoding="utf-8"))
outcomes = [noether.run(spec, run_id=sys.argv[1], quiet=True)]
assert outcomes[0].status == "FINISHED", outcomes[0].error
"""


def test_hashes_of_texts_and_the_locale_of_the_start_reach_no_byte(tiny_spec: dict[str, Any]):  # L2, L3
    tiny_spec["name"] = "tiny"
    tiny_spec["checkpoints"] = {"keep_last": 20}
    tiny_spec["datasets"]["prüfung"] = tiny_spec["datasets"]["test"]
    tiny_spec["trainer"]["callbacks"] = [*CALLBACKS, {**CALLBACKS[1], "id": "second", "dataset_key": "prüfung"}]
    Path("tiny.toml").write_text(tomli_w.dumps(tiny_spec), encoding="utf-8")
    Path("script.py").write_text(SCRIPT)
    root = str(Path(noether.__file__).parents[1])
    variants = {
        "0": {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
        "1": {
            "PYTHONHASHSEED": "1",
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
            "TZ": "Asia/Kathmandu",
        },
    }
    running = [
        subprocess.Popen(
            [sys.executable, "script.py", name],
            env={**os.environ, "PYTHONPATH": root, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name, variables in variants.items()
    ]
    for process in running:
        out, _ = process.communicate(timeout=100)
        assert process.returncode == 0, out.decode()
    first, other = (files_of(Path("runs") / name) for name in variants)
    assert other.keys() == first.keys()
    assert [name for name in first if first[name] != other[name]] == []


def test_a_restrictive_umask_keeps_a_run_to_its_user(finish: Callable[..., Outcome], mover: None):  # L2
    os.umask(0o077)
    outcome = finish({"trainer.callbacks": CALLBACKS})
    modes = {path.stat().st_mode & 0o077 for path in [outcome.run_dir, *outcome.run_dir.rglob("*")]}
    assert modes == {0}
