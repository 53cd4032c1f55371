"""Charts of a report: the curves of all runs, training and evaluation of one metric together, as JSON for the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from noether.metrics.metrics_file import spell_number
from noether.runs.results.report.curves import Clock, Curves, Numbers

GROUPS = {
    "loss": "Loss and evaluation",
    "best": "Best values so far",
    "optim": "Optimizer",
    "speed": "Speed",
    "other": "Other values",
}
"""Headings of groups of charts, in their order."""
MOST_CHARTS = 120
_MOST_POINTS, _LEAST_POINTS = 4000, 20
_QUALIFIED = re.compile(r"(?P<qualifier>(?:[^/=]+=[^/]*/)*)(?P<rest>.+)", re.DOTALL)
_BEST = re.compile(r"/best(/tolerance=[^/]*)?$")
_MACHINERY = {
    "optim/lr": ("optim", "Learning rate"),
    "optim/grad_norm": ("optim", "Gradient norm"),
    "stability/gradient_norm": ("optim", "Gradient norm"),
    "stability/model_norm": ("optim", "Norm of the weights"),
    "stability/non_finite_gradients": ("optim", "Non-finite gradients"),
    "stability/grad_scale": ("optim", "Scale of the gradient scaler"),
    "profiling/updates_per_second": ("speed", "Updates per second"),
    "profiling/peak_memory_gib": ("speed", "Peak memory in GiB"),
    "profiling/remaining_seconds": ("speed", "Estimated remaining seconds"),
}
PARTS = ("data", "forward", "backward", "update")
"""Parts of an update whose mean seconds `profiling/<part>_time` are."""
_LOG_FROM = 10.0
"""Ratio of the highest to the lowest value from which a chart of losses or norms begins with a log scale."""


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a curve: its group and chart, its name in the legend, and True for training losses."""

    group: str
    title: str
    label: str
    is_training: bool = False


def place_of(key: str, evaluated: Sequence[str] = ()) -> Place:
    """Return the place of a metric key.

    Args:
        key: The key: `loss/online/total` and `ema=0.9/loss/test/total` go to one chart, `loss/total`.
        evaluated: Parts of keys after the data set, `total`, of metrics that evaluations log; the training loss of a
            second callback, `loss/online/total/<id>`, is drawn with those.
    """
    top, _, rest = key.partition("/")
    if _BEST.search(key) or "/at_best/" in key or key.startswith("best="):
        return Place("best", key, key)
    if top in ("optim", "stability", "profiling", "system", "data", "model"):
        return _machinery(key, top, rest)
    match = _QUALIFIED.fullmatch(key)
    parts = match["rest"].split("/", 2) if match else []
    if match is None or len(parts) < 3:
        return Place("other", key, key)
    metric, source, tail = parts
    qualifier = match["qualifier"].rstrip("/")
    if source != "online":
        return Place("loss", f"{metric}/{tail}", " · ".join(filter(None, [source, qualifier])))
    name = max((end for end in evaluated if f"{tail}/".startswith(f"{end}/")), key=len, default=tail)
    label = " · ".join(filter(None, ["training", tail[len(name) + 1 :], qualifier]))
    return Place("loss", f"{metric}/{name}", label, is_training=True)


def _machinery(key: str, top: str, rest: str) -> Place:
    """Return the place of what callbacks tell about the training itself."""
    for known, (group, title) in _MACHINERY.items():
        if key == known or key.startswith(f"{known}/"):
            return Place(group, title, key)
    if top == "profiling" and rest.removesuffix("_time") in PARTS:
        return Place("speed", "Seconds of an update by part", rest.removesuffix("_time"))
    group = {"optim": "optim", "stability": "optim", "profiling": "speed"}.get(top, "other")
    return Place(group, key, key)


def tails_of(keys: Sequence[str]) -> list[str]:
    """Return the parts after the data set of the metrics that evaluations log."""
    parts = (match["rest"].split("/", 2) for match in map(_QUALIFIED.fullmatch, keys) if match is not None)
    return sorted({part[2] for part in parts if len(part) == 3 and part[1] != "online"})


def importance(name: str) -> tuple[bool, bool]:
    """Return the place of a metric among others: the total loss, then other metrics, then losses of single fields."""
    is_total, is_loss = name.endswith("/total"), "loss/" in name
    return not is_total, is_loss and not is_total


@dataclass
class Chart:
    """One chart: the series as the page reads them, and the keys of others that are equal."""

    group: str
    title: str
    series: list[dict[str, Any]] = field(default_factory=list)
    same: list[str] = field(default_factory=list)

    def fingerprint(self) -> tuple[Any, ...]:
        """Return the values of all series; equal ones are drawn once."""
        return tuple((one["run"], one["label"], str(one["v"])) for one in self.series)

    def order(self) -> tuple[Any, ...]:
        """Return its place on the page: totals, then metrics, then losses of single fields."""
        return list(GROUPS).index(self.group), *importance(self.title), self.title == "Estimated remaining seconds"

    def as_json(self) -> dict[str, Any]:
        """Return the chart as the page reads it."""
        wants_log = self.group == "loss" or self.title == "Gradient norm"
        return {
            "group": self.group,
            "title": self.title,
            "log": wants_log and _is_wide(self.series),
            "same": self.same,
            "series": self.series,
        }


def _is_wide(series: Sequence[Mapping[str, Any]]) -> bool:
    values = [value for one in series for value in one["v"] if value is not None]
    return bool(values) and min(values) > 0 and max(values) / min(values) > _LOG_FROM


def charts_of(runs: Sequence[Curves], budget: int) -> tuple[list[dict[str, Any]], int]:
    """Return the charts of runs, and the most points that a series keeps.

    A key with one value in each run has no curve; see `single_values`.

    Args:
        runs: Curves of each run.
        budget: Most points of all series together, about.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.by_key))
    drawn = [key for key in keys if any(key in run.by_key and run.by_key[key].points > 1 for run in runs)]
    number = sum(key in run.by_key for run in runs for key in drawn)
    most = max(_LEAST_POINTS, min(_MOST_POINTS, budget // max(1, number)))
    tails = tails_of(drawn)
    charts: dict[tuple[str, str], Chart] = {}
    for key in drawn:
        place = place_of(key, tails)
        chart = charts.setdefault((place.group, place.title), Chart(place.group, place.title))
        for number, run in enumerate(runs):
            if key in run.by_key:
                chart.series.append(_series(number, key, place, run, most))
    ordered = sorted(charts.values(), key=lambda chart: chart.order())
    return [chart.as_json() for chart in _without_doubles(ordered)][:MOST_CHARTS], most


def _without_doubles(charts: Sequence[Chart]) -> Iterator[Chart]:
    """Yield the charts, without those that show the values of another: the loss of the only field is the total."""
    seen: dict[Any, Chart] = {}
    kept = []
    for chart in charts:
        first = seen.setdefault(chart.fingerprint(), chart)
        if first is chart:
            kept.append(chart)
        else:
            first.same.append(chart.title)
    yield from kept


def _series(number: int, key: str, place: Place, run: Curves, most: int) -> dict[str, Any]:
    curve = run.by_key[key]
    update, value = curve.thinned(most)
    return {
        "run": number,
        "key": key,
        "label": place.label,
        "training": place.is_training,
        "points": curve.points,
        "lost": curve.non_finite,
        "u": np.diff(update, prepend=0.0).astype(np.int64).tolist(),
        "v": [_short(one) for one in value.tolist()],
    }


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def clock_of(clock: Clock) -> dict[str, list[float]]:
    """Return the table with which the page turns updates into epochs, samples and seconds since the start."""
    rows, epochs = clock.rows, clock.epochs
    start = float(rows[0, 2]) if len(rows) else 0.0
    return {
        "update": _whole(rows[:, 0]),
        "sample": _whole(rows[:, 1]),
        "time": np.round(rows[:, 2] - start, 2).tolist(),
        "epochUpdate": _whole(epochs[:, 0]),
        "epoch": _whole(epochs[:, 1]),
    }


def _whole(numbers: Numbers) -> list[float]:
    return list(numbers.astype(np.int64).tolist())


def single_values(runs: Sequence[Curves]) -> dict[str, list[float | str | None]]:
    """Return the values that each run logged once, by key, one for each run; they have no curve."""
    keys = dict.fromkeys(key for run in runs for key in run.by_key)
    single = [key for key in keys if all(run.by_key[key].points == 1 for run in runs if key in run.by_key)]
    return {
        key: [spell_number(run.by_key[key].last[1]) if key in run.by_key else None for run in runs] for key in single
    }
