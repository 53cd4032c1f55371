"""Runs as notebooks show them: facts, evaluation metrics, small curves and settings as HTML without any script."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from noether.checkpoint.paths import PathProvider
from noether.errors import NoetherError
from noether.runs.results.report.charts import charts_of, importance
from noether.runs.results.report.curves import Curves, read_curves
from noether.runs.results.report.sections import number, text
from noether.runs.results.summary import Evaluated, RunState, RunSummary, summary_of
from noether.runs.saved_spec import read_spec_file
from noether.spec.errors.words import duration_in_words
from noether.spec.overlay import settings_of

_MOST_METRICS, _MOST_CHARTS, _MOST_LINES, _MOST_SETTINGS = 12, 4, 6, 200
_POINTS = 200 * _MOST_CHARTS * _MOST_LINES
_WIDTH, _HEIGHT, _LEFT, _EDGE = 300, 130, 52, 8
_COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2")
_BADGES = {"FINISHED": "#15803d", "FAILED": "#b91c1c", "KILLED": "#b45309", "RUNNING": "#1d4ed8"}
_QUIET = "opacity:.7"
_MONO = "font-family:monospace"


def html_of_run(paths: PathProvider, *, status: RunState | None = None, error: str | None = None) -> str:
    """Return a run as HTML; nothing in its folder makes this fail, or is anything but text in it.

    Args:
        paths: Paths of the run.
        status: The end of a run that this process knows better than its folder.
        error: Reason for this end.
    """
    run = summary_of(paths)
    if status is not None:
        run = replace(run, status=status, error=error)
    try:
        curves = read_curves(paths)
        lost = f"<div>{curves.damaged:,} of {curves.lines:,} lines of metrics cannot be read</div>"
        charts = _charts(curves) + (lost if curves.damaged else "")
    except (NoetherError, OSError, ValueError):
        charts = ""  # a summary names what is wrong with a folder
    return f'<div class="noether-run">{_head(run)}{_metrics(run.evaluations)}{charts}{_settings(run)}</div>'


def _head(run: RunSummary) -> str:
    facts = [f"{number(run.update)} updates", f"{number(run.epoch)} epochs", duration_in_words(run.seconds)]
    facts += [f"{number(run.metrics['model/parameters'])} parameters"] if "model/parameters" in run.metrics else []
    facts += [f"seed {run.seed}"] if run.seed is not None else []
    color = _BADGES.get(run.status, "#525252")
    badge = (
        f'<span style="background:{color};color:#fff;border-radius:4px;padding:1px 7px;font-size:85%">'
        f"{run.status.lower()}</span>"
    )
    troubles = "".join(
        f'<div style="color:#b91c1c;white-space:pre-wrap">{text(trouble)}</div>'
        for trouble in (run.error, run.problem)
        if trouble
    )
    return (
        f'<div><b>{text(run.name, 200)}</b> {badge} <span style="{_MONO};{_QUIET}">{text(run.run_id, 200)}</span></div>'
        f'<div style="{_QUIET}">{" · ".join(facts)}</div>{troubles}'
    )


def _metrics(evaluations: Sequence[Evaluated]) -> str:
    """Return the table of evaluation metrics, the most telling ones first."""
    if not evaluations:
        return ""
    shown = sorted(evaluations, key=lambda one: importance(one.key))[:_MOST_METRICS]
    rows = "".join(
        f'<tr><th style="text-align:left">{text(one.key, 200)}</th><td>{number(one.final)}</td>'
        f"<td><b>{number(one.best)}</b></td><td>{number(one.best_update)}</td>"
        f'<td style="text-align:left;{_MONO}">{text(one.checkpoint or "", 200)}</td></tr>'
        for one in shown
    )
    rest = len(evaluations) - len(shown)
    more = f'<div style="{_QUIET}">and {rest} more, see <code>.metrics</code></div>' if rest else ""
    names = ("last", "best", "at update", "checkpoint")
    head = '<th style="text-align:left">metric</th>' + "".join(f"<th>{name}</th>" for name in names)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _charts(curves: Curves) -> str:
    """Return the most telling charts as pictures: the total loss of training and evaluation, then other metrics."""
    charts, _ = charts_of([curves], _POINTS)
    drawn = [chart for chart in charts if chart["group"] == "loss"][:_MOST_CHARTS]
    pictures = "".join(_chart(chart) for chart in drawn)
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin:6px 0">{pictures}</div>' if pictures else ""


def _chart(chart: Mapping[str, Any]) -> str:
    lines = [(one["label"], list(_points(one))) for one in chart["series"][:_MOST_LINES]]
    finite = [point for _, points in lines for point in points if point is not None]
    if not finite:
        return ""
    is_log = bool(chart["log"])
    across = _Scale([x for x, _ in finite], _LEFT, _WIDTH - _EDGE)
    up = _Scale([y for _, y in finite], _HEIGHT - 18, _EDGE, is_log=is_log)
    paths = "".join(
        f'<path d="{_path(points, across, up)}" fill="none" stroke="{_COLORS[place]}" stroke-width="1.5"/>'
        for place, (_, points) in enumerate(lines)
    )
    legend = " ".join(
        f'<span style="color:{_COLORS[place]}">{text(label, 60)}</span>' for place, (label, _) in enumerate(lines)
    )
    more = f" +{len(chart['series']) - len(lines)}" if len(chart["series"]) > len(lines) else ""
    title = text(chart["title"], 60) + (" (log scale)" if is_log else "")
    return (
        f'<figure style="margin:0"><figcaption style="font-size:85%"><b>{title}</b> {legend}{more}</figcaption>'
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        f"{_axes(across, up)}{paths}</svg></figure>"
    )


def _points(series: Mapping[str, Any]) -> Iterator[tuple[float, float] | None]:
    """Yield the points of a curve, whose updates are stored as differences; None for a value that is not finite."""
    update = 0
    for step, value in zip(series["u"], series["v"], strict=True):
        update += step
        yield None if value is None else (update, value)


class _Scale:
    """Places of values between two ends of a picture.

    Args:
        values: The values.
        first: Place of the lowest one.
        last: Place of the highest one.
        is_log: Use a log scale; all values are positive.
    """

    def __init__(self, values: Sequence[float], first: float, last: float, *, is_log: bool = False) -> None:
        self.low, self.high = min(values), max(values)
        self._value = math.log if is_log else float
        self._first, self._last = first, last

    def place(self, value: float) -> float:
        """Return the place of a value; the middle if all are equal."""
        low, high = self._value(self.low), self._value(self.high)
        part = (self._value(value) - low) / (high - low) if math.isfinite(high - low) and high > low else 0.5
        return self._first + part * (self._last - self._first)


def _path(points: Sequence[tuple[float, float] | None], across: _Scale, up: _Scale) -> str:
    """Return the line through the points, with a gap at each that is missing."""
    parts, begins = [], True
    for point in points:
        if point is not None:
            parts.append(f"{'M' if begins else 'L'}{across.place(point[0]):.1f} {up.place(point[1]):.1f}")
        begins = point is None
    return "".join(parts)


def _axes(across: _Scale, up: _Scale) -> str:
    bottom, right = _HEIGHT - 18, _WIDTH - _EDGE
    style = 'font-size="10" fill="currentColor" opacity=".7"'
    frame = f'<path d="M{_LEFT} {_EDGE}V{bottom}H{right}" fill="none" stroke="currentColor" opacity=".3"/>'
    return (
        f'{frame}<text x="{_LEFT - 4}" y="{_EDGE + 8}" text-anchor="end" {style}>{up.high:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{bottom}" text-anchor="end" {style}>{up.low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}" {style}>{number(across.low)}</text>'
        f'<text x="{right}" y="{_HEIGHT - 5}" text-anchor="end" {style}>update {number(across.high)}</text>'
    )


def _settings(run: RunSummary) -> str:
    """Return the settings of the spec, folded: those that its file sets, then those with their defaults."""
    found = settings_of(run.tables, flat=True)
    given: set[str] = set()
    with suppress(NoetherError, OSError, ValueError):
        given = {*settings_of(read_spec_file(run.paths, run.paths.spec_path).tables, flat=True)}
    first = {path: value for path, value in found.items() if path in given}
    rest = {path: value for path, value in found.items() if path not in given}
    return _folded("set in the spec", first) + _folded("by default or from the command line", rest)


def _folded(title: str, settings: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td style="text-align:left">{text(path, 200)}</td>'
        f'<td style="text-align:left;{_MONO}">{text(settings[path], 200)}</td></tr>'
        for path in list(settings)[:_MOST_SETTINGS]
    )
    more = f"<div>and {len(settings) - _MOST_SETTINGS} more</div>" if len(settings) > _MOST_SETTINGS else ""
    summary = f"<summary>{len(settings)} settings {title}</summary>"
    return f"<details>{summary}<table>{rows}</table>{more}</details>" if settings else ""
