"""The table of goals of speed shows what benchmarks have published, and says what nobody has measured."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    return importlib.import_module("performance_figures")


def row(figures: ModuleType, extra_info: dict, **changes: object) -> tuple[str, str]:
    usual = {"what": "A cost", "at_most": "1.3", "benchmark": "test_a", "key": "ratio", "limit": 1.3}
    goal = figures.Goal(**usual | changes)
    return figures.found(goal, [{"fullname": "benchmarks/test_a.py::test_a", "extra_info": extra_info}])


def test_a_goal_is_met_or_not(figures):
    assert row(figures, {"ratio": 1.3}) == ("1.30", "yes")
    assert row(figures, {"ratio": 1.31}) == ("1.31", "no")


def test_a_figure_may_be_in_a_table_and_of_another_unit(figures):
    found = row(figures, {"ratios": {"ours / theirs": 0.002}}, key="ratios.ours / theirs", show="{:.1f} ms", factor=1e3)
    assert found == ("2.0 ms", "yes")


def test_what_was_not_measured_is_said(figures):
    assert row(figures, {"other": 1.0}) == ("not measured", "")
    assert row(figures, {"ratio": 1.0}, benchmark="test_b") == ("not measured", "")
    assert row(figures, {"ratio": 1.0}, benchmark=figures.DEVICE) == ("not measured: no GPU", "")


ROWS = {
    "tiny, fp32": {
        "equality": {"differs": [], "eager_because": []},
        "figures": {"us": {}, "ratios": {"eager": 1.05, "graph": 1.2}},
    },
    "tiny, bf16": {"equality": {"differs": ["optimizer"], "eager_because": []}, "figures": {"ratios": {"graph": 1.3}}},
    "tiny, fp16": {"equality": {"differs": [], "eager_because": []}},
}
REPORT = {"device": "NVIDIA H100", "torch": "2.13.0", "rows": ROWS, "waits": {"eager": None, "graph": "Error: item"}}


def test_figures_of_a_gpu_are_the_worst_of_all_rows(figures):
    lines = figures.table([], REPORT).splitlines()
    shown = {cells[1].strip(): cells[3:5] for line in lines if len(cells := line.split("|")) > 4}
    assert shown["Eager, beside the bare loop with pinned copies"] == [" 1.05 ", " yes "]
    assert shown["The graph, fed by the loader, beside the graph captured by hand"] == [" 1.30 ", " no "]
    assert shown["Waits for the device, in an update and for metrics"] == [" 1 forms wait ", " no "]
    assert shown["Weights of the graph and of eager updates"] == [" 1 differ ", " no "]
    assert shown["… with the data set on the device"][0] == " not measured: no GPU "
    assert "NVIDIA H100, torch 2.13.0" in lines[-1]


def test_figures_of_a_cpu_in_the_place_of_a_gpu_are_refused(figures):
    with pytest.raises(SystemExit):
        figures.of_device(REPORT | {"device": "a CPU (its times say nothing)"})


def test_each_goal_names_a_benchmark_that_exists(figures):
    command = [sys.executable, "benchmarks", "--collect-only"]
    # Without what xdist has set for the process of this test, in which pytest-benchmark would run nothing.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=True)
    names = done.stdout.splitlines()
    goals = {goal.benchmark for part in figures.GOALS.values() for goal in part}
    missing = {name for name in goals if not any(name in each for each in names)}
    assert missing == {figures.DEVICE, figures.DEVICE_PEERS}
    assert (REPOSITORY / figures.DEVICE).is_file()


def test_the_page_has_a_row_for_every_goal(figures):
    page = figures.PAGE.read_text("utf-8")
    goals = [goal for part in figures.GOALS.values() for goal in part]
    assert [goal.what for goal in goals if f"| {goal.what} | {goal.at_most} |" not in page] == []
