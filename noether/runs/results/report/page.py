"""The report of runs: one HTML file with everything in it, which loads nothing and sends nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from noether.checkpoint.durable import replace_file, size_text
from noether.checkpoint.paths import PathProvider, shown_path
from noether.errors import NoetherError, error_text
from noether.runs.results.report import sections
from noether.runs.results.report.charts import GROUPS, MOST_CHARTS, charts_of, clock_of, single_values
from noether.runs.results.report.curves import MOST_KEYS, Curves, read_curves
from noether.runs.results.report.media import Media, media_of
from noether.runs.results.summary import RunState, RunSummary, summary_of, told_apart

_LOG = logging.getLogger("noether.tracking")
MOST_BYTES = 5_000_000
_MOST_AT_THE_END = 16_000_000
"""Bytes of `metrics.jsonl` up to which the end of a run makes the report for trackers: half a second of one core."""
BUDGETS = ((140_000, 1_700_000), (40_000, 300_000), (8_000, 0))
"""Points of all curves, and bytes of all figures, that are tried in turn until the page is small enough."""
_PLACEHOLDER = re.compile(r"\{\{([a-z]+)\}\}")


def report_of(runs: Sequence[PathProvider], *, status: RunState | None = None, error: str | None = None) -> bytes:
    """Return the report of one run, or of several in the same charts, as HTML.

    A run that still trains is shown as it is now. Nothing in a run folder is executed, or followed out of it.

    Args:
        runs: Paths of the runs.
        status: The end of a run that this process has not left yet; None for what its folder says.
        error: Reason for this end.
    """
    summaries = told_apart([summary_of(paths) for paths in runs])
    if status is not None:
        summaries = [replace(summary, status=status, error=error) for summary in summaries]
    curves, problems = curves_of(runs)
    page = b""
    for points, figures in BUDGETS:
        page = _page(summaries, curves, media_of(runs, figures), points, problems)
        if len(page) <= MOST_BYTES:
            break
    return page


def curves_of(runs: Sequence[PathProvider]) -> tuple[list[Curves], list[str]]:
    """Return the curves of runs, and a line on each run whose metrics cannot be read."""
    curves, problems = [], []
    for paths in runs:
        try:
            curves.append(read_curves(paths))
        except (NoetherError, OSError, ValueError) as error:
            curves.append(Curves())
            problems.append(f"The metrics of {paths.run_id} cannot be read: {error}")
    return curves, problems


def report_for_trackers(paths: PathProvider, status: RunState, error: str | None) -> bytes | None:
    """Return the report of a run that ends; None, with a line in the log, if it would take longer than a second.

    Nothing about it is an error of the run.

    Args:
        paths: Paths of the run.
        status: The end of the run.
        error: Reason for this end.
    """
    if status == "KILLED":  # by a signal: the process has to leave, and the run may be continued
        return None
    command = f"noether runs report {shlex.quote(str(shown_path(paths.run_path)))}"
    try:
        size = paths.metrics_path.stat().st_size if paths.metrics_path.exists() else 0
        if size > _MOST_AT_THE_END:
            _LOG.info("the tracker gets no report.html of %s of metrics; make it with: %s", size_text(size), command)
            return None
        return report_of([paths], status=status, error=error)
    except Exception as failure:
        _LOG.warning("the tracker gets no report.html: %s; try: %s", error_text(failure), command)
        return None


def write_report(runs: Sequence[PathProvider], out: Path) -> int:
    """Write the report of runs to a file; return its bytes.

    Raises:
        StorageError: if the disk refuses.
    """
    page = report_of(runs)
    replace_file(out, page)
    return len(page)


def _page(
    runs: Sequence[RunSummary], curves: Sequence[Curves], media: Media, points: int, problems: Sequence[str]
) -> bytes:
    drawn = charts_of(curves, points)
    parts = {
        "results": ("Results", sections.results(runs) + sections.evaluated_again(runs)),
        "curves": ("Curves", curves_part(runs, curves, *drawn, problems)),
        "time": ("Time by part", sections.time_parts(runs, curves) + sections.callback_costs(runs)),
        "media": ("Figures and tables", _media(media, runs)),
        "spec": ("Spec", sections.spec(runs, toml_text)),
        "environment": ("Environment", sections.environment(runs)),
        "values": ("Other values", sections.single(single_values(curves), runs)),
        "next": ("How to go on", sections.commands(runs)),
    }
    title = runs[0].run_id if len(runs) == 1 else f"{len(runs)} runs"
    return filled(title, sections.header(runs), parts, runs, curves, drawn[0], media.shown)


def filled(
    title: str,
    header: str,
    parts: Mapping[str, tuple[str, str]],
    runs: Sequence[RunSummary],
    curves: Sequence[Curves],
    charts: Sequence[Any],
    media: Sequence[Any] = (),
) -> bytes:
    """Return a page.

    Args:
        title: Title of its window.
        header: HTML above its parts.
        parts: Title and HTML of each part by its name; those without HTML are left out.
        runs: Runs whose curves are drawn.
        curves: Their curves.
        charts: The charts of these curves, see `charts_of`.
        media: Figures and histograms.
    """
    shown = {name: part for name, part in parts.items() if part[1]}
    data = {
        "runs": [
            {"name": sections.plain(run.run_id, 200), "clock": clock_of(of_run.clock)}
            for run, of_run in zip(runs, curves, strict=True)
        ],
        "groups": GROUPS,
        "charts": charts,
        "media": list(media),
    }
    return _in_template(
        header=header,
        title=sections.text(title, 200),
        first=next(iter(shown)),
        navigation="".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in shown.items()),
        sections="\n".join(
            f'<section class="part" id="{name}"><h2>{title}</h2>{body}</section>'
            for name, (title, body) in shown.items()
        ),
        footer=f"Written by Noether {version('noether-train')} on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC. "
        "This page is one file: it loads nothing, and sends nothing anywhere.",
        data=_embedded(data),
    )


def curves_part(
    runs: Sequence[RunSummary], curves: Sequence[Curves], charts: Sequence[Any], most: int, problems: Sequence[str]
) -> str:
    """Return the place of the charts, with a line on everything that they do not show."""
    notes = list(problems)
    series = [one for chart in charts for one in chart["series"]]
    if any(one["points"] > len(one["v"]) for one in series):
        notes.append(
            f"Curves of more than {most:,} values are thinned: the lowest and the highest of each stretch are drawn, "
            "so no peak is missing; smoothing works on what is drawn."
        )
    if lost := sum(one["lost"] for one in series):
        notes.append(f"{lost:,} values are NaN or infinite: they are gaps in the curves.")
    for run, of_run in zip(runs, curves, strict=True):
        if of_run.damaged:
            notes.append(
                f"{of_run.damaged:,} of {of_run.lines:,} lines of {run.run_id} cannot be read: they are left out."
            )
        if of_run.left_out:
            notes.append(f"{len(of_run.left_out):,} metric keys of {run.run_id} beyond {MOST_KEYS} are left out.")
    if len(charts) == MOST_CHARTS:
        notes.append(f"The first {MOST_CHARTS} charts are shown; metrics.jsonl of the run has everything.")
    if not charts:
        notes.append("No metric has two values yet, so there are no curves.")
    said = "".join(f'<p class="note">{sections.text(note)}</p>' for note in notes)
    hint = (
        '<p class="note">Drag in a chart to zoom, double-click to see everything. Click a name to hide its curve, '
        "Shift-click to see it alone. With the keyboard: Tab to a chart, arrows move, + and - zoom, l switches the "
        'log scale, Esc resets.</p><noscript><p class="warn">The curves need JavaScript.</p></noscript>'
    )
    return f'<div id="charts"></div>{said}{hint if charts else ""}'


def _media(media: Media, runs: Sequence[RunSummary]) -> str:
    kinds = {one["kind"] for one in media.shown}
    places = "".join(f'<div class="grid" id="{kind}s"></div>' for kind in ("figure", "histogram") if kind in kinds)
    said = "".join(f'<p class="note">{sections.text(line)}</p>' for line in media.left_out)
    return places + sections.tables(media, runs) + said


def toml_text(tables: Any) -> str:
    """Return tables as TOML."""
    import tomli_w

    return tomli_w.dumps(tables)


def _embedded(data: Any) -> str:
    """Return JSON that no text in it can end: neither `</script>` nor `<!--` stands in it."""
    body = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return body.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _in_template(**values: str) -> bytes:
    """Return the page with these values in its places; what stands in a value is no place."""
    folder = files(__package__)
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    given = {"policy": policy, "style": style, "script": script, **values}
    page = _PLACEHOLDER.sub(lambda place: given[place[1]], (folder / "page.html").read_text("utf-8"))
    return page.encode("utf-8", "replace")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
