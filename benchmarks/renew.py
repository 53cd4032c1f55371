"""Measure new baselines for the gate, and print them beside those of an older commit on this machine.

python benchmarks/renew.py                   every benchmark of the quick tier, compared with the last renewal's commit
python benchmarks/renew.py --new             only benchmarks without a baseline; compares with nothing
python benchmarks/renew.py benchmarks/data   only these
python benchmarks/renew.py --before HEAD~3   compare with another commit

Commit `benchmarks/baselines.json` alone, with the printed table in the message.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import gate
import torch

ROOT = Path(__file__).parents[1]
COMMAND = (sys.executable, str(ROOT / "benchmarks"), "-m", "not long")


def record(tree: Path, what: Sequence[str], tries: int) -> dict[str, gate.Figures]:
    """Return the figures of benchmarks in a tree of the repository, measured several times.

    Raises:
        SystemExit: if one fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [*COMMAND, *what, f"--record={file}", f"--tries={tries}"]
        code = subprocess.run(command, cwd=tree, check=False).returncode
        if code:
            raise SystemExit(f"a benchmark in {tree} failed (exit code {code}); no baseline was written")
        return json.loads(file.read_text("utf-8"))


def recorded_at(commit: str, what: Sequence[str], tries: int) -> dict[str, gate.Figures]:
    """Return the figures of a commit, measured here and now."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            return record(tree, [each for each in what if (tree / each.split("::")[0]).exists()], tries)
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def without_baseline(what: Sequence[str], baselines: dict[str, gate.Figures]) -> list[str]:
    """Return the benchmarks that have no baseline."""
    command = [*COMMAND, *what, "--collect-only"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line for line in listed if "::" in line and line not in baselines]


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["benchmarks"], help="files, folders or tests")
    parser.add_argument("--new", action="store_true", help="only benchmarks without a baseline")
    parser.add_argument("--before", metavar="COMMIT", help="the commit to compare with; default: the last renewal")
    parser.add_argument("--tries", type=int, default=5, help="measurements of each benchmark")
    options = parser.parse_args(arguments)
    baselines = gate.load()
    what = without_baseline(options.what, baselines) if options.new else options.what
    if not what:
        print("every benchmark has a baseline")
        return 0
    commit = "" if options.new else options.before or git("log", "-1", "--format=%H", "--", "benchmarks/baselines.json")
    before = {} if not commit else recorded_at(commit, what, options.tries)
    after = record(ROOT, what, options.tries)
    kept = {} if what == ["benchmarks"] else baselines  # so that what no longer exists goes
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    machine = f"{machine}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    gate.save(machine, kept | after, gate.BASELINES)
    print("\n".join(["", f"{machine}; before: {commit or 'nothing'}", "", *gate.comparison(before, after)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
