"""Runs as notebooks show them."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import noether
from noether.checkpoint.paths import PathProvider
from noether.runs.outcome import Outcome
from noether.runs.results.report.notebook import html_of_run

EVIL = "<script>alert('ü')</script>"


class Tags(HTMLParser):
    """Collects the elements of a page, and checks that each is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += f"{data}\n"


@pytest.fixture
def run(four_runs: Path, tmp_path: Path) -> PathProvider:
    """A finished run that a test may change."""
    shutil.copytree(four_runs / "lr0.01-seed0", tmp_path / "lr0.01-seed0")
    return PathProvider(tmp_path, "lr0.01-seed0")


def write_lines(run: PathProvider, metrics: list[dict[str, float | str]]) -> None:
    lines = [
        {"update": place, "epoch": place, "sample": place, "time": 1.0 * place, "metrics": values}
        for place, values in enumerate(metrics, start=1)
    ]
    run.metrics_path.write_text("\n".join(json.dumps(line) for line in [*lines, ""]))


def test_a_run_shows_its_end_its_metrics_its_curves_and_its_settings(run: PathProvider):
    page = Tags(html_of_run(run))
    for words in ("tiny", "finished", "lr0.01-seed0", "rmse/test/y", "loss/total", "training", "test", "model.hidden"):
        assert f"{words}\n" in page.words.replace(" (log scale)", "")
    assert {"table", "svg", "details"} <= set(page.seen)
    assert not {"script", "style", "img", "link", "iframe"} & set(page.seen)


def test_settings_that_the_spec_sets_stand_before_defaults(run: PathProvider):
    folds = html_of_run(run).split("<details>")[1:]
    assert len(folds) == 2
    assert "model.hidden<" in folds[0]
    assert "deterministic<" in folds[1]


def test_objects_of_a_run_show_themselves_and_their_text_stays_short(four_runs: Path):
    loaded = noether.load_run(four_runs / "lr0.01-seed0")
    assert "rmse/test/y" in loaded._repr_html_()
    assert len(repr(loaded)) < 400
    failed = Outcome("FAILED", four_runs / "lr0.01-seed0", error=ValueError(EVIL))._repr_html_()
    assert "failed" in failed
    assert "ValueError" in failed
    assert "<script" not in failed


def test_names_and_values_of_a_stranger_are_text(run: PathProvider):
    write_lines(run, [{f"{EVIL}/test/{EVIL}": value, "loss/test/total": value} for value in (3.0, 1.0)])
    spec = run.resolved_spec_path.read_text()
    run.resolved_spec_path.write_text(re.sub(r'^name = "tiny"', f'name = "{EVIL}"', spec, flags=re.MULTILINE))
    page = html_of_run(run)
    assert "&lt;script&gt;" in page
    assert "script" not in Tags(page).seen


@pytest.mark.parametrize(
    "values",
    [[1.0], [2.0, 2.0], ["NaN", "NaN", "NaN"], [1e308, -1e308], [1.0, "NaN", "Infinity", 2.0], [5e-324, 1e300], []],
)
def test_curves_of_few_equal_huge_or_missing_values_are_drawn_as_far_as_they_go(run: PathProvider, values):
    write_lines(run, [{"loss/test/total": value} for value in values])
    page = html_of_run(run)
    Tags(page)
    drawn = "".join(re.findall(r' d="([^"]*)"', page))
    assert not re.search("nan|inf", drawn)


def test_a_long_run_with_many_metrics_stays_small(run: PathProvider):
    write_lines(run, [{f"rmse/test/field{field}": update + field for field in range(40)} for update in range(3000)])
    page = html_of_run(run)
    assert page.count("<svg") == 4
    assert "and 28 more" in page
    assert len(page) < 150_000


def test_a_folder_that_is_damaged_or_no_run_says_so(run: PathProvider, tmp_path: Path):
    run.metrics_path.write_text("{" * 100 + "\n")
    assert "1 of 1 lines of metrics cannot be read" in html_of_run(run)
    assert "run.json is missing" in html_of_run(PathProvider(tmp_path, "none"))
