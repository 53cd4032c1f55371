"""The report as an artifact of the MLflow run: made at the end, never a reason to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from noether.runs.results.report import page

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

EVALUATION = [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}]


@pytest.fixture
def trained(database, tiny_spec, run):
    """Runs the tiny spec with MLflow; returns the outcome and the reports that MLflow has."""

    def train(changes=None, **table):
        trackers = [{"kind": "mlflow", **table}]
        outcome = run({"trackers": trackers, "trainer.callbacks": EVALUATION, **(changes or {})})
        return outcome, [path.read_text() for path in Path("mlartifacts").rglob("report.html")]

    return train


def test_mlflow_gets_the_report_with_the_end_of_the_run(trained):
    outcome, (report,) = trained()
    assert outcome.status == "FINISHED"
    assert report.startswith("<!doctype html>") and "loss/test/total" in report and ">finished</span>" in report
    assert not (outcome.run_dir / "report.html").exists()


def test_a_failed_run_has_its_error_in_the_report(trained):
    outcome, (report,) = trained({"expect": {"loss/test/total": {"max": 0.0}}})
    assert outcome.status == "FAILED"
    assert ">failed</span>" in report and "training finished, but [expect] failed" in report


def test_the_spec_can_leave_the_report_out(trained):
    outcome, reports = trained(report=False)
    assert (outcome.status, reports) == ("FINISHED", [])


def test_an_error_in_the_report_is_a_line_in_the_log_and_the_run_has_finished(trained, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no ink")

    monkeypatch.setattr(page, "report_of", broken)
    outcome, reports = trained()
    assert (outcome.status, reports) == ("FINISHED", [])
    assert "no report.html: RuntimeError: no ink; try: noether runs report" in (outcome.run_dir / "log.txt").read_text()


def test_a_run_with_many_metrics_does_not_wait_for_a_report_and_says_how_to_make_it(trained, monkeypatch):
    monkeypatch.setattr(page, "_MOST_AT_THE_END", 100)
    outcome, reports = trained()
    assert (outcome.status, reports) == ("FINISHED", [])
    assert "make it with: noether runs report" in (outcome.run_dir / "log.txt").read_text()
