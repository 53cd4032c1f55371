"""Training and evaluation of one metric share a chart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from noether.checkpoint.paths import PathProvider
from noether.runs.results.report.charts import charts_of, place_of, single_values
from noether.runs.results.report.curves import Curves, read_curves


@pytest.mark.parametrize(
    ("key", "group", "title", "label"),
    [
        ("loss/online/total", "loss", "loss/total", "training"),
        ("loss/online/total/slow", "loss", "loss/total", "training · slow"),
        ("loss/test/total", "loss", "loss/total", "test"),
        ("ema=0.9/loss/test/total", "loss", "loss/total", "test · ema=0.9"),
        ("rmse/test/elevation", "loss", "rmse/elevation", "test"),
        ("loss/test/total/best", "best", "loss/test/total/best", "loss/test/total/best"),
        ("optim/lr/encoder", "optim", "Learning rate", "optim/lr/encoder"),
        ("stability/gradient_norm", "optim", "Gradient norm", "stability/gradient_norm"),
        ("profiling/forward_time", "speed", "Seconds of an update by part", "forward"),
        ("own", "other", "own", "own"),
        ("a/b", "other", "a/b", "a/b"),
        ("<script>", "other", "<script>", "<script>"),
    ],
)
def test_a_key_has_its_chart(key: str, group: str, title: str, label: str) -> None:
    place = place_of(key, ["total"])
    assert (place.group, place.title, place.label) == (group, title, label)


@pytest.fixture
def curves(tmp_path: Path) -> Curves:
    paths = PathProvider(tmp_path, "run")
    paths.run_path.mkdir()
    with paths.metrics_path.open("w") as file:
        for n in range(1, 31):
            metrics: dict[str, float | str] = {"loss/online/total": 1 / n, "loss/online/y_loss": 1 / n, "optim/lr": 0.1}
            if n % 10 == 0:
                metrics |= {"loss/test/total": 2 / n, "loss/test/y_loss": 2 / n, "rmse/test/y": "NaN" if n == 20 else n}
            if n == 30:
                metrics["model/parameters"] = 7.0
            fields = {"update": n, "epoch": n // 10, "sample": 8 * n, "time": 1e9 + n, "metrics": metrics}
            file.write(json.dumps(fields) + "\n")
    return read_curves(paths)


def test_the_total_loss_comes_first_and_equal_charts_are_drawn_once(curves: Curves) -> None:
    charts, _ = charts_of([curves], 10_000)
    assert [chart["title"] for chart in charts] == ["loss/total", "rmse/y", "Learning rate"]
    assert charts[0]["same"] == ["loss/y_loss"]
    assert [one["label"] for one in charts[0]["series"]] == ["training", "test"]
    assert charts[0]["log"] and not charts[2]["log"]


def test_updates_are_written_as_steps_and_what_is_not_finite_as_a_gap(curves: Curves) -> None:
    (rmse,) = charts_of([curves], 10_000)[0][1]["series"]
    assert (rmse["u"], rmse["v"], rmse["lost"], rmse["points"]) == ([10, 10, 10], [10.0, None, 30.0], 1, 3)


def test_the_budget_of_points_is_shared_by_all_series(curves: Curves) -> None:
    charts, most = charts_of([curves, curves], 100)
    assert most == 20
    assert all(len(one["v"]) <= most for chart in charts for one in chart["series"])


def test_a_value_that_was_logged_once_has_no_curve(curves: Curves) -> None:
    assert single_values([curves]) == {"model/parameters": [7.0]}
