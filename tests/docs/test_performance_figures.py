"""The table of goals of speed shows what benchmarks have published, and says what nobody has measured."""

import importlib
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
    assert row(figures, {"ratio": 1.0}, benchmark=None) == ("not measured: no GPU", "")


def test_the_page_has_a_row_for_every_goal(figures):
    page = figures.PAGE.read_text("utf-8")
    goals = [goal for part in figures.GOALS.values() for goal in part]
    assert [goal.what for goal in goals if f"| {goal.what} | {goal.at_most} |" not in page] == []
