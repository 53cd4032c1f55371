"""The two examples of the page of hooks implement every hook once, and each is called."""

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import noether
from noether.kernel.hookspecs import HOOKS

_METRICS = {"diary/loss", "diary/gradient_norm", "diary/seconds"}


def test_every_hook_is_in_one_of_the_examples(page):
    code = "\n".join(block.text for block in page["hooks.md"].blocks("python"))
    assert sorted(re.findall(r"def (\w+)\(", code)) == sorted(HOOKS)


def test_every_hook_of_the_examples_is_called(page, repository: Path, project: Path, noether_registry, capsys):
    page["hooks.md"].write_files(project)
    spec = tomllib.loads((repository / "specs/smoke/digits.toml").read_text())
    del spec["expect"]
    (project / "pyproject.toml").write_text("")
    diary = {"id": "mine", "kind": "diary.callback.DiaryCallback", "every_n_epochs": 1}
    spec["trainer"] |= {"max_epochs": 1, "callbacks": [diary]}
    spec |= {"trackers": [{"kind": "noop"}], "threads": 1, "device": "cpu"}
    noether.load_spec(spec)
    noether_registry("plugin", "diary", import_module("diary.plugin"))
    told = {limit: run(spec, limit, capsys) for limit in (1, 0)}
    trained, evaluated = told[1], told[0]
    for hook in (
        "run_started",
        "before_training",
        "after_update",
        "after_epoch",
        "checkpoint_committed",
        "run_finished",
    ):
        assert hook in trained
    assert "digits-with-diary" in trained
    assert "at_eval" in evaluated
    assert "after_update" not in evaluated


def run(spec: dict[str, Any], epochs: int, capsys) -> str:
    """Run the spec with the plugin; return what both have told."""
    outcome = noether.run(spec, set={"trainer.max_epochs": epochs, "plugins.use": ["diary"]}, quiet=True)
    assert outcome.error is None, outcome.error
    if epochs:
        assert outcome.metrics.keys() >= _METRICS
    return (outcome.run_dir / "log.txt").read_text() + capsys.readouterr().out
