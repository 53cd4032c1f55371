"""The report of runs: one file that is complete, small and harmless, whatever the run folder holds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noether.checkpoint.paths import PathProvider
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import Content, ResultsFile
from noether.runs.folder.lock import RunLock
from noether.runs.results.report import page
from noether.runs.results.report.page import MOST_BYTES, report_of

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>/ünï/{{data}}"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.text = content.decode()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.shown = ""
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.append(data)
        elif not self.elements or self.elements[-1][0] != "style":
            self.shown += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


@pytest.fixture
def run(four_runs: Path, tmp_path: Path) -> PathProvider:
    """A copy of one of the runs."""
    shutil.copytree(four_runs / "lr0.01-seed0", tmp_path / "runs" / "mine")
    return PathProvider(tmp_path / "runs", "mine")


@pytest.fixture
def append(run: PathProvider) -> Callable[..., None]:
    """Appends a line to the metrics of the run."""

    def write(update: int, **metrics: Any) -> None:
        fields = {"update": update, "epoch": 2, "sample": 8 * update, "time": 1.8e9 + update, "metrics": metrics}
        with run.metrics_path.open("a") as file:
            file.write(json.dumps(fields) + "\n")

    return write


def keep(run: PathProvider, update: int, **contents: Content) -> None:
    file = ResultsFile(run.run_path)
    file.keep(MetricRecord(update, 1, 8 * update, 1.8e9), contents)
    file.close()


def test_the_report_of_a_run_has_its_results_curves_spec_and_environment(run: PathProvider) -> None:
    found = Page(report_of([run]))
    for expected in (
        "tiny",
        "finished",
        "rmse/test/y",
        "lower is better",
        "E2_U12_S96",
        "lr = 0.01",
        "torch",
        "noether eval",
    ):
        assert expected in found.shown, expected
    titles = [chart["title"] for chart in found.data["charts"]]
    assert titles[0] == "loss/total" and {"rmse/y", "Learning rate", "Updates per second"} <= {*titles}
    assert [one["label"] for one in found.data["charts"][0]["series"]] == ["training", "test"]
    assert found.data["runs"][0]["clock"]["epoch"] == [0, 1, 2]


def test_several_runs_share_charts_and_their_differing_settings_come_first(four_runs: Path) -> None:
    runs = [PathProvider(four_runs, name) for name in ("lr0.01-seed0", "lr0.001-seed1")]
    found = Page(report_of(runs))
    loss = found.data["charts"][0]["series"]
    assert [(one["run"], one["label"]) for one in loss] == [(0, "training"), (1, "training"), (0, "test"), (1, "test")]
    spec = found.shown[found.shown.index("Setting") : found.shown.index("All ")]
    assert "model.optimizer.lr0.010.001" in spec and "seed01" in spec and "effective_batch_size" not in spec
    assert any(attributes.get("class") == "differs" for _, attributes in found.elements)
    assert sum(attributes.get("class") == "best" for _, attributes in found.elements) >= 2


def test_the_policy_forbids_the_network_and_every_script_but_that_of_the_page(run: PathProvider) -> None:
    found = Page(report_of([run]))
    policy = next(attributes["content"] for _, attributes in found.elements if "http-equiv" in attributes) or ""
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    named = {attributes[name] for _, attributes in found.elements for name in ("src", "href") if name in attributes}
    assert all(one.startswith("#") for one in named if one), named


def test_text_of_a_run_folder_is_shown_and_never_becomes_markup(run: PathProvider, append: Callable[..., None]) -> None:
    plain = Page(report_of([run]))
    for update in (13, 14):
        append(update, **{HOSTILE: 1.0 * update, f"rmse/test/{HOSTILE}": 0.5, "bidi\u202e": 1.0})
    append(15, **{f"single{HOSTILE}": 2.0})
    table = {"columns": [HOSTILE], "data": [[HOSTILE]]}
    keep(run, 13, **{HOSTILE: Content("table", "json", json.dumps(table).encode(), {HOSTILE: "text"})})
    record = json.loads((run.attempts_path / "0001.json").read_text())
    (run.attempts_path / "0001.json").write_text(json.dumps(record | {"status": "FAILED", "reason": HOSTILE}))
    spec = run.resolved_spec_path.read_text()
    run.resolved_spec_path.write_text(spec.replace('name = "tiny"', f'name = "{HOSTILE}"'))
    found = Page(report_of([run]))
    assert {tag for tag, _ in found.elements} <= {tag for tag, _ in plain.elements} | {"p", "h3"}
    assert len(found.scripts) == 2 and "onerror" not in str([attributes for _, attributes in found.elements])
    assert found.shown.count(HOSTILE) >= 5
    assert HOSTILE in [one["key"] for chart in found.data["charts"] for one in chart["series"]]


def test_figures_histograms_and_tables_are_shown(run: PathProvider) -> None:
    for update in (4, 8):
        keep(run, update, view=Content("figure", "png", PIXEL))
    counts = json.dumps({"edges": [0.0, 1.0, 2.0], "counts": [3, 4], "left_out": 1}).encode()
    rows = json.dumps({"columns": ["name", "error"], "data": [["a", 0.25], ["b", None]]}).encode()
    types = {"name": "text", "error": "float"}
    keep(run, 9, weights=Content("histogram", "json", counts), worst=Content("table", "json", rows, types))
    found = Page(report_of([run]))
    figure, histogram = found.data["media"]
    assert [frame["update"] for frame in figure["frames"]] == [4, 8]
    assert base64.b64decode(figure["frames"][0]["png"]) == PIXEL
    assert histogram["frames"] == [{"update": 9, "edges": [0.0, 1.0, 2.0], "counts": [3, 4], "left": 1}]
    assert "worst" in found.shown and "0.25" in found.shown


def test_figures_beyond_the_budget_are_left_out_with_a_line_that_says_so(run: PathProvider, monkeypatch: Any) -> None:
    monkeypatch.setattr(page, "BUDGETS", ((1000, 3 * len(PIXEL)),))
    for update in range(5):
        keep(run, update, view=Content("figure", "png", PIXEL))
    found = Page(report_of([run]))
    assert [frame["update"] for frame in found.data["media"][0]["frames"]] == [2, 3, 4]
    assert "2 of 5 figures are left out" in found.shown


def test_what_is_no_png_and_what_was_changed_is_left_out(run: PathProvider) -> None:
    keep(run, 1, page=Content("figure", "png", b"<script>alert(1)</script>"), view=Content("figure", "png", PIXEL))
    (run.run_path / "results/view/U000000000001.png").write_bytes(PIXEL[:-1])
    found = Page(report_of([run]))
    assert found.data["media"] == [] and "2 figures cannot be read" in found.shown


def test_a_link_in_a_run_folder_is_not_followed(run: PathProvider, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"update": 1, "epoch": 0, "sample": 1, "time": 1, "metrics": {"stolen": 1.0}}\n')
    run.metrics_path.unlink()
    run.metrics_path.symlink_to(secret)
    found = Page(report_of([run]))
    assert "stolen" not in found.text and "cannot be read" in found.shown


def test_values_that_are_not_finite_are_gaps_and_counted(run: PathProvider, append: Callable[..., None]) -> None:
    append(13, **{"loss/online/total": "NaN"})
    append(14, **{"loss/online/total": "Infinity"})
    found = Page(report_of([run]))
    assert found.data["charts"][0]["series"][0]["v"][-2:] == [None, None]
    assert "2 values are NaN or infinite" in found.shown


def test_a_run_that_still_trains_is_shown_as_it_is_now(run: PathProvider) -> None:
    with run.metrics_path.open("a") as file:
        file.write('{"update": 13, "epo')
    with RunLock(run.run_path):
        found = Page(report_of([run]))
    assert "running" in found.shown and "at update 12" in found.shown and "noether resume" not in found.shown


def test_a_failed_run_shows_its_error_and_the_command_that_continues_it(run: PathProvider) -> None:
    record = json.loads((run.attempts_path / "0001.json").read_text())
    (run.attempts_path / "0001.json").write_text(json.dumps(record | {"status": "FAILED", "reason": "out of luck"}))
    found = Page(report_of([run]))
    assert "out of luck" in found.shown and "noether resume" in found.shown


def test_a_run_of_another_version_and_one_with_little_in_it_still_make_a_page(run: PathProvider) -> None:
    body = json.loads((run.run_path / "run.json").read_text())
    del body["sha256"]
    (run.run_path / "run.json").write_text(json.dumps(body | {"format": 9}))
    assert "another version" in Page(report_of([run])).shown
    for name in ("metrics.jsonl", "spec.resolved.toml", "spec.toml"):
        (run.run_path / name).unlink()
    shutil.rmtree(run.checkpoint_path)
    shutil.rmtree(run.attempts_path)
    found = Page(report_of([run]))
    assert "unknown" in found.shown and "No metric of an evaluation was logged" in found.shown
    assert found.data["charts"] == []


def test_a_page_stays_below_its_limit_however_many_metrics_a_run_has(run: PathProvider) -> None:
    numbers = np.random.default_rng(0).normal(size=(700, 60)).tolist()
    with run.metrics_path.open("a") as file:
        for update, row in enumerate(numbers, start=13):
            metrics = {f"rmse/test/{place}/{'x' * 200}": value for place, value in enumerate(row)}
            fields = {"update": update, "epoch": 2, "sample": 8 * update, "time": 1.8e9 + update, "metrics": metrics}
            file.write(json.dumps(fields) + "\n")
    for update in range(3):
        keep(run, update, big=Content("figure", "png", PIXEL + bytes(800_000)))
    content = report_of([run] * 4)
    assert len(content) <= MOST_BYTES
    assert "are thinned" in Page(content).shown


def test_secrets_do_not_leave_with_the_page(run: PathProvider) -> None:
    spec = run.resolved_spec_path.read_text()
    address = "https://me:hunter2hunter2@tracking.example"
    run.resolved_spec_path.write_text(spec + f'\n[extra]\ntracking_uri = "{address}"\n')
    assert "hunter2" not in Page(report_of([run])).text


def test_no_line_of_the_page_names_a_place_in_the_network() -> None:
    folder = Path(page.__file__).parent
    for name in ("page.html", "page.css", "page.js"):
        addresses = re.findall(r"https?://[^\"'\s)]+", (folder / name).read_text())
        assert {*addresses} <= {"http://www.w3.org/2000/svg"}, name
