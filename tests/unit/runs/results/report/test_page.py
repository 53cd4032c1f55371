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
from noether.runs.results.report.sweep import _PLOTS, MOST_DRAWN, sweep_report
from noether.runs.sweep.journal import FAILED, FINISHED, PRUNED, WAITING, Journal, Record
from noether.runs.sweep.search import PLOTS
from noether.spec.sweep import Objective

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


def test_callbacks_have_their_time_in_all_attempts(run: PathProvider) -> None:
    record = json.loads((run.attempts_path / "0001.json").read_text())
    assert record["callbacks"]["offline-metrics"][0] == 2
    costs = {"offline-metrics": [3, 1.5], "<b>": [1, 0.5], "odd": [True, "x"], "worse": 3}
    (run.attempts_path / "0002.json").write_text(json.dumps(record | {"callbacks": costs}))
    shown = Page(report_of([run])).shown
    costs_shown = shown[shown.index("Time of callbacks") :]
    assert re.search(r"offline-metrics51\.5\d", costs_shown) and "<b>10.50500.0" in costs_shown
    assert "odd" not in costs_shown and "worse" not in costs_shown
    assert "Time of callbacks" in Page(report_of([run, run])).shown


def test_checkpoints_that_were_evaluated_later_have_a_table(run: PathProvider, tmp_path: Path) -> None:
    assert "evaluated afterwards" not in Page(report_of([run])).shown
    for name, value in (("E1_U6_S48", 0.75), ("E2_U12_S96.data=new", 0.5)):
        folder = run.run_path / "evaluations" / name
        folder.mkdir(parents=True)
        metrics = {"rmse/test/y": value, "profiling/peak_memory_gib": 3.0}
        (folder / "metrics.jsonl").write_bytes(MetricRecord(12, 2, 96, 1.8e9, metrics).encode())
    (run.run_path / "evaluations" / "damaged").mkdir()
    (run.run_path / "evaluations" / "damaged" / "metrics.jsonl").write_bytes(b"{]\n\xff\n")
    shown = Page(report_of([run])).shown
    table = shown[shown.index("Checkpoints evaluated afterwards") : shown.index("Curves", shown.index("afterwards"))]
    assert table.strip().endswith("MetricE1_U6_S48E2_U12_S96.data=newrmse/test/y0.750.5")
    shutil.rmtree(run.run_path / "evaluations")
    (run.run_path / "evaluations").symlink_to(tmp_path)
    assert "evaluated afterwards" not in Page(report_of([run])).shown


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


# Sweeps

KEY = "rmse/test/y"
Make = Callable[..., Journal]


@pytest.fixture
def make(four_runs: Path, tmp_path: Path) -> Make:
    """Writes a sweep with trials in these states, and a run for each but those that wait; the last one is the best."""

    def made(*states: str, method: str = "optuna", pictures: dict[str, bytes] | None = None) -> Journal:
        journal = Journal(tmp_path, "s")
        record = Record("s", "spec.toml", method, Objective(KEY, "lower", "final"), {})
        for number, state in enumerate(states):
            trial = record.add({"model.optimizer.lr": 0.5**number, "model.hidden": [8]})
            trial.state = state
            if state != WAITING:
                shutil.copytree(four_runs / "lr0.01-seed0", journal.paths(trial).run_path)
                trial.seconds = 1.0
            if state in (FINISHED, PRUNED):
                trial.final = trial.best = 1.0 / (number + 1)
        with journal.locked():
            journal.write(record)
        for name, picture in (pictures or {}).items():
            (journal.folder / "plots").mkdir(exist_ok=True)
            (journal.folder / "plots" / f"{name}.png").write_bytes(picture)
        return journal

    return made


def images(found: Page) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in found.elements if tag == "img"]


def test_the_page_has_the_trials_the_plots_and_the_curves_of_the_sweep(make: Make) -> None:
    found = Page(sweep_report(make(FINISHED, PRUNED, FINISHED, pictures=dict.fromkeys(PLOTS, PIXEL))))
    assert [found.shown.index(f"s-00{number}") for number in (3, 1, 2)] == sorted(
        found.shown.index(f"s-00{number}") for number in (1, 2, 3)
    )
    assert sum(attributes.get("class") == "winner" for _, attributes in found.elements) == 1
    assert "s-003bestfinished0.25[8]0.333333at 12" in found.shown
    assert {base64.b64decode((image["src"] or "").partition(",")[2]) for image in images(found)} == {PIXEL}
    assert [(image["alt"] or "").partition(":")[0] for image in images(found)] == [
        one.partition(":")[0] for one in _PLOTS.values()
    ]
    first = found.data["charts"][0]["series"]
    assert {one["key"] for one in first} == {KEY} and {one["run"] for one in first} == {0, 1, 2}
    assert [run["name"] for run in found.data["runs"]] == ["s-003", "s-001", "s-002"]
    named = {attributes.get(name) or "#" for _, attributes in found.elements for name in ("src", "href")}
    assert all(one.startswith(("#", "data:image/png;base64,")) for one in named)


def test_each_plot_of_optuna_has_a_text_for_those_who_do_not_see_it() -> None:
    assert _PLOTS.keys() == PLOTS.keys()


@pytest.mark.parametrize(
    ("states", "more", "told"),
    [
        ((FINISHED, WAITING), {}, ("stopped before its end, with 1 of 2 trials", "none yet", "waiting")),
        ((FINISHED, FAILED), {}, ("s-002: failed", "needs two trials with a value", "1 finished, 1 failed")),
        ((FINISHED, FINISHED), {}, ("start it again with Optuna installed",)),
        ((FINISHED, FINISHED), {"method": "grid"}, ("trials of this sweep are those of method = grid",)),
        ((FAILED,), {}, ("none is the best",)),
        ((WAITING,), {}, ("none is the best", "no curves")),
        ((FINISHED, WAITING), {"pictures": {"history": PIXEL}}, ("lack the trials since",)),
        ((FINISHED, FINISHED), {"pictures": {"history": PIXEL}}, ("could not draw", "Importances, Slices")),
        ((FINISHED, FINISHED), {"pictures": {"slice": b"<svg>"}}, ("plots/slice.png is too large for this page, or",)),
    ],
)
def test_what_is_absent_is_said(make: Make, states: Any, more: Any, told: Any) -> None:
    found = Page(sweep_report(make(*states, **more)))
    for words in told:
        assert words in found.shown, words


def test_a_sweep_that_still_runs_is_shown_as_it_is_now(make: Make) -> None:
    journal = make(FINISHED, WAITING)
    with journal.locked():
        found = Page(sweep_report(journal))
    assert "as it was when 1 of 2 trials had ended" in found.shown and "running" in found.shown


def test_a_large_sweep_stays_below_the_limit_and_says_whose_curves_it_draws(make: Make) -> None:
    states = [FINISHED] * 12 + [WAITING] * 38
    content = sweep_report(make(*states, pictures=dict.fromkeys(PLOTS, PIXEL + bytes(900_000))))
    found = Page(content)
    assert len(content) <= MOST_BYTES
    assert len(found.data["runs"]) == MOST_DRAWN and "The 8 best of the 12 trials" in found.shown
    assert all(f"s-{number:03d}" in found.shown for number in range(1, 51))
    assert len(images(found)) == 1 and "is too large for this page" in found.shown


def test_text_of_the_folder_of_a_sweep_never_becomes_markup(make: Make, tmp_path: Path) -> None:
    journal = make(FINISHED, FAILED)
    plain = {tag for tag, _ in Page(sweep_report(journal)).elements}
    record = journal.read()
    record.name = record.spec = record.method = record.trials[0].values["model.optimizer.lr"] = HOSTILE
    record.trials[0].values[HOSTILE], record.trials[1].error = 1.0, HOSTILE
    journal.write(record)
    (journal.folder / "plots").symlink_to(tmp_path)
    found = Page(sweep_report(journal))
    assert {tag for tag, _ in found.elements} <= plain and len(found.scripts) == 2
    assert found.shown.count(HOSTILE) >= 5
