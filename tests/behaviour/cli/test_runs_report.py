"""`noether runs report`: one HTML file, from run folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def runs(four_runs: Path, workplace: Path) -> Path:
    """The runs below the working folder, as after a few commands of a user."""
    return Path(shutil.copytree(four_runs, workplace / "runs"))


def test_a_run_becomes_a_file_in_the_working_folder(runs, noether_command):
    ended = noether_command("runs", "report", "lr0.01-seed0")
    assert ended.code == 0 and ended.out.startswith("wrote lr0.01-seed0.report.html (")
    Path("lr0.01-seed0.report.html").write_text("<!doctype html>an older report")
    noether_command("runs", "report", "lr0.01-seed0")
    assert Path("lr0.01-seed0.report.html").read_text().startswith("<!doctype html>\n<html")


def test_several_runs_become_one_file_and_a_run_that_is_named_twice_counts_once(runs, noether_command):
    ended = noether_command("runs", "report", "lr0.01-seed0", "lr0.*-seed0", "runs/lr0.001-seed0", "--out", "both.html")
    assert ended.code == 0
    assert "<h1>2 runs of tiny</h1>" in Path("both.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-run"], "unknown run: found 'no-such-run'"),
        (["empty"], "wrong run folder: found empty"),
        (["lr0.01-seed0", "--out", "empty"], "found a folder at empty"),
        (["lr0.01-seed0", "--out", "gone/report.html"], "found no folder at gone"),
        (["lr0.01-seed0", "--out", "mine.toml"], "found another file at mine.toml"),
    ],
)
def test_what_is_no_run_or_no_file_is_one_clear_error(runs, noether_command, arguments, says):
    Path("empty").mkdir()
    Path("mine.toml").write_text("spec = 1")
    ended = noether_command("runs", "report", *arguments)
    assert ended.code == 2 and says in ended.err and "help: " in ended.err and "Traceback" not in ended.err
