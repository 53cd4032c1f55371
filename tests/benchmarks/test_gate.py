"""The gate of benchmarks: what it compares, and two injections into a copy of the repository that it has to catch."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import gate

REPOSITORY = Path(__file__).parents[2]
COUNTS = "benchmarks/training/test_counts.py::test_an_update"
SLOWED = """

def _slowed(function):
    from time import thread_time

    def slowed(*args, **kwargs):
        began = thread_time()
        result = function(*args, **kwargs)
        ends = began + 1.5 * (thread_time() - began)
        while thread_time() < ends:
            pass
        return result

    return slowed


"""


class Tree:
    """A copy of the repository, as far as benchmarks need it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("noether", "benchmarks"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", folder)

    def run(self, what: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "benchmarks", what, "-p", "no:cacheprovider"]
        # Without what xdist has set for the process of this test: pytest-benchmark would measure nothing.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return subprocess.run(
            [*command, *options], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def renew(self, what: str) -> None:
        done = self.run(what, f"--record={self.folder / 'found.json'}", "--tries=3")
        assert done.returncode == 0, done.stdout
        gate.save(
            "here", json.loads((self.folder / "found.json").read_text()), self.folder / "benchmarks/baselines.json"
        )

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        path = self.folder / file
        before = path.read_text()
        after = change(before)
        assert after != before, f"nothing to change was found in {file}"
        path.write_text(after)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_call_more_in_the_hot_loop_fails_and_is_named(tree: Tree):
    tree.renew(COUNTS)
    assert tree.run(COUNTS, "--gate").returncode == 0
    tree.edit(
        "noether/training/loop.py", lambda text: re.sub(r"(\n +)(counter\.update \+= 1\n)", r"\1len(())\1\2", text)
    )
    found = tree.run(COUNTS, "--gate")
    assert found.returncode == 1
    assert re.search(r"python calls above the bare loop: found (-?\d+), expected at most -?\d+", found.stdout)
    assert "+1 built-in method builtins.len" in found.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("file", "function", "measured_by"),
    [
        (
            "noether/core/callbacks/checkpoint/averages.py",
            "Average.update",
            "benchmarks/training/test_ema.py::test_many_small_tensors",
        ),
        (
            "noether/spec/locate.py",
            "Locations.__init__",
            "benchmarks/spec/test_locate.py::test_locating_a_long_spec_beside_parsing_it",
        ),
    ],
    ids=["averages of weights", "places in a spec"],
)
def test_a_hot_function_slowed_by_half_fails(tree: Tree, file: str, function: str, measured_by: str):
    tree.renew(measured_by)
    assert tree.run(measured_by, "--gate").returncode == 0
    tree.edit(file, lambda text: f"{text}{SLOWED}{function} = _slowed({function})\n")
    found = tree.run(measured_by, "--gate")
    assert found.returncode == 1
    assert re.search(
        r"found [\d.]+, expected at most [\d.]+|^E +assert ", found.stdout, re.MULTILINE
    )  # or its own limit


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_benchmark_that_vanished_one_that_publishes_nothing_and_one_without_baseline_fail(tree: Tree):
    file = tree.folder / "benchmarks" / "test_small.py"
    file.write_text(
        "def test_kept(benchmark):\n"
        "    benchmark.extra_info['counts'] = {'calls': 1}\n"
        "    benchmark.pedantic(int)\n"
        "def test_new(benchmark):\n"
        "    benchmark.extra_info['counts'] = {'calls': 1}\n"
        "    benchmark.pedantic(int)\n"
        "def test_silent(benchmark):\n"
        "    benchmark.pedantic(int)\n"
        "def test_without_figures(benchmark):\n"
        "    benchmark.pedantic(int)\n"
    )
    name = "benchmarks/test_small.py"
    baselines = {f"{name}::{test}": {"counts": {"calls": 1}} for test in ("test_kept", "test_silent", "test_gone")}
    gate.save("here", baselines, tree.folder / "benchmarks" / "baselines.json")
    found = tree.run(name, "--gate")
    assert found.returncode == 1
    assert f"{name}::test_gone - it has a baseline, but did not run" in found.stdout
    assert "has no baseline" in found.stdout
    assert "calls: no longer published" in found.stdout
    assert "2 failed, 2 passed" in found.stdout


def test_a_count_may_shrink_but_not_grow():
    baseline = {"counts": {"calls": 35.0}}
    assert gate.grown_counts({"counts": {"calls": 34.0}}, baseline) == []
    assert gate.grown_counts({"counts": {"calls": 35.0}}, baseline) == []
    assert gate.grown_counts({"counts": {"calls": 35.01}}, baseline) == ["calls: found 35.01, expected at most 35"]


def test_a_count_that_is_no_longer_published_fails():
    assert gate.grown_counts({"counts": {}}, {"counts": {"calls": 35.0}}) == ["calls: no longer published"]


def test_the_functions_that_make_more_calls_are_named_the_most_first():
    before = {"a > b": 1.0, "a > c": 2.0, "d > e": 1.0}
    found = {"a > b": 1.0, "a > c": 1.0, "d > e": 2.0, "d > f": 2.0, "g > h": 1.0}
    assert gate.grown_calls(found, before) == ["  d makes more calls: +2 f, +1 e", "  g makes more calls: +1 h"]


@pytest.mark.parametrize(
    ("ratio", "deviation", "limit"),
    [(1.0, 0.0, 1.1), (1.0, 0.02, 1.1), (1.0, 0.05, 1.2), (2.0, 0.1, 2.4), (1.0, 0.2, 1.4)],
)
def test_a_ratio_may_grow_by_a_tenth_or_by_four_deviations_but_never_by_half(
    ratio: float, deviation: float, limit: float
):
    assert gate.limit(ratio, deviation) == pytest.approx(limit)
    baseline = {"ratios": {"ratio": [ratio, deviation]}}
    assert gate.grown_ratios({"ratios": {"ratio": limit - 0.001}}, baseline) == []
    assert len(gate.grown_ratios({"ratios": {"ratio": limit + 0.001}}, baseline)) == 1
    assert gate.grown_ratios({"ratios": {"ratio": ratio * 1.49}}, baseline, gate.ELSEWHERE) == []


def test_a_baseline_is_the_median_and_its_deviation_over_the_tries():
    tries = [{"ratios": {"ratio": value}} for value in (1.0, 1.1, 1.4)]
    assert gate.baseline_of(tries) == {"ratios": {"ratio": [1.1, 0.1]}}


def test_counts_that_differ_between_tries_are_no_baseline():
    with pytest.raises(ValueError, match="counts differ"):
        gate.baseline_of([{"counts": {"calls": 1}}, {"counts": {"calls": 2}}])
