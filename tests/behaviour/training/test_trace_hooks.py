"""`noether run --trace-hooks`, as a user types it: in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import noether
from noether.kernel.compile import HookWatch, Timers, watch_hooks
from noether.kernel.hookspecs import HOOKS

PLUGIN = """
import noether

@noether.hookimpl
def configure_spec(spec): ...

@noether.hookimpl
def run_started(run): ...

@noether.hookimpl
@noether.every(updates=5)
def periodic_callback(update_counter): ...

@noether.hookimpl
def checkpoint_committed(checkpoint): ...

@noether.hookimpl
def run_finished(outcome): ...
"""
LINE = re.compile(r"(?P<hook>\w+)  (?P<id>[a-z0-9._/-]+)  (?P<at>-|update \d+)  \d+\.\d{3} ms")


@pytest.fixture
def spec(tiny_spec: dict[str, Any]) -> dict[str, Any]:
    children = [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}]
    tiny_spec["trainer"]["callbacks"] = [
        {"kind": "online-loss", "id": "losses", "every_n_updates": 4},
        {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": children},
    ]
    Path("mine").mkdir()
    Path("mine/__init__.py").touch()
    Path("mine/hooks.py").write_text(PLUGIN)
    tiny_spec["plugins"] = {"use": ["mine.hooks"]}
    return tiny_spec


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "noether", "run", "tiny.toml", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_each_hook_call_is_a_line_on_stderr(spec: dict[str, Any]) -> None:
    Path("tiny.toml").write_text(tomli_w.dumps(spec))
    lines = run("--trace-hooks").stderr.splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    calls = [(match["hook"], match["id"], match["at"]) for match in found if match is not None]
    assert {hook for hook, _, _ in calls} <= set(HOOKS)
    assert calls[:2] == [("configure_spec", "mine.hooks", "-"), ("run_started", "mine.hooks", "-")]
    assert calls[-1] == ("run_finished", "mine.hooks", "-")
    assert [at for hook, name, at in calls if (hook, name) == ("periodic_callback", "mine.hooks")] == [
        "update 5",
        "update 10",
    ]
    for expected in [
        ("track_after_accumulation_step", "losses", "update 11"),
        ("track_after_update_step", "ema", "update 12"),
        ("periodic_callback", "losses", "update 12"),
        ("after_epoch", "ema", "update 12"),
        ("after_epoch", "ema/0.5/offline-loss", "update 12"),
        ("checkpoint_committed", "mine.hooks", "-"),
        ("after_training", "ema/0.5/offline-loss", "update 12"),
    ]:
        assert expected in calls
    assert ("periodic_callback", "losses", "update 11") not in calls


@pytest.mark.slow
def test_without_the_option_nothing_is_printed(spec: dict[str, Any]) -> None:
    Path("tiny.toml").write_text(tomli_w.dumps(spec))
    assert run().stderr == ""


def test_python_traces_and_times_as_the_command_does(
    tiny_spec: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_spec["trainer"]["callbacks"] = [{"kind": "online-loss", "id": "losses", "every_n_updates": 4}]
    assert noether.run(tiny_spec, quiet=True, trace_hooks=True).status == "FINISHED"
    assert "periodic_callback  losses  update 12  " in capsys.readouterr().err
    timers: Timers = {}
    with watch_hooks(HookWatch(timers=timers)):
        assert noether.run(tiny_spec, quiet=True).status == "FINISHED"
    assert timers["track_after_accumulation_step", "losses"][0] == 12
    assert capsys.readouterr().err == ""
