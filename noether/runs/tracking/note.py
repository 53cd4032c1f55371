"""The description of a run in words: state, subject, results and commands, in Markdown and without PyTorch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from noether.checkpoint.paths import PathProvider, shown_path
from noether.metrics.tracker import DatasetFacts, RunStatus
from noether.runs.results.summary import Evaluated, RunSummary, summary_of
from noether.runs.results.table import main_metrics
from noether.spec.errors.words import duration_in_words, visible

_MOST_METRICS = 20
_IN_ONE_LINE = 3


def describe_run(paths: PathProvider, datasets: Sequence[DatasetFacts], status: RunStatus | None) -> str:
    """Return what a run is, its results so far and the commands that go on from it, in Markdown.

    Args:
        paths: Paths of the run.
        datasets: Its data sets.
        status: Its end, if its process is still at work; None for that of the folder.
    """
    summary = summary_of(paths)
    if status is not None:
        summary = replace(summary, status=status)
    return "\n\n".join(filter(None, (_state(summary), _subject(summary, datasets), _results(summary), _ways(summary))))


def _state(summary: RunSummary) -> str:
    words = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "was stopped", "RUNNING": "is running"}
    text = f"**{_plain(summary.name)}** {words.get(summary.status, 'has an unknown state')}"
    if summary.update:
        text += f" after epoch {summary.epoch}, update {summary.update:,}, in {duration_in_words(summary.seconds)}"
    reason = f": {_plain(summary.error)}" if summary.error and summary.status == "FAILED" else ""
    main = main_metrics([summary], _IN_ONE_LINE)
    first = sorted(summary.evaluations, key=lambda one: main.index(one.key) if one.key in main else len(main))
    shown = (f"{_code(one.key)} {_shown(one)}" for one in first[:_IN_ONE_LINE])
    return " · ".join((f"{text}{reason}", *shown))


def _subject(summary: RunSummary, datasets: Sequence[DatasetFacts]) -> str:
    model = summary.tables.get("model")
    kind = model.get("kind") if isinstance(model, Mapping) else None
    text = f"It trains {_code(str(kind or 'a model'))}"
    if parameters := summary.metrics.get("model/parameters"):
        text += f" with {parameters:,.0f} parameters"
    parts = [f"{one.samples:,} samples of {_code(one.kind)} as {_code(one.key)}" for one in datasets[:5]]
    return f"{text} on {', '.join(parts)}." if parts else f"{text}."


def _results(summary: RunSummary) -> str:
    if not summary.evaluations:
        return ""
    rows = [_row(one) for one in summary.evaluations[:_MOST_METRICS]]
    table = "\n".join(("| metric | best | at epoch | last |", "| --- | ---: | ---: | ---: |", *rows))
    left = len(summary.evaluations) - len(rows)
    return f"{table}\n\nand {left} more under *Model metrics*." if left > 0 else table


def _shown(one: Evaluated) -> str:
    return f"**{one.final:.5g}**" + ("" if one.best in (None, one.final) else f" (best {one.best:.5g})")


def _row(one: Evaluated) -> str:
    better = {"min": " (lower is better)", "max": " (higher is better)"}.get(one.direction or "", "")
    best = "" if one.best is None else f"**{one.best:.5g}**"
    epoch = "" if one.best_epoch is None else str(one.best_epoch)
    return f"| {_code(one.key)}{better} | {best} | {epoch} | {one.final:.5g} |"


def _ways(summary: RunSummary) -> str:
    place = shlex.quote(str(shown_path(summary.paths.run_path)))
    ways = [f"noether eval {place}", f"noether predict {place} --data new.csv --out predictions.csv"]
    if summary.status not in ("FINISHED", "RUNNING"):
        ways.insert(0, f"noether resume {place}")
    return "\n".join(("```console", *(f"$ {visible(way)}" for way in ways), "```"))


def _plain(text: str) -> str:
    """Return text in one line in which Markdown and HTML have no meaning."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", visible(" ".join(text.split()))[:300])


def _code(text: str) -> str:
    return "`" + visible(text).replace("`", "'").replace("|", "\\|")[:200] + "`"
