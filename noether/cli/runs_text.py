"""Output of `noether runs`: tables, facts, JSON and comma-separated values of runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noether.checkpoint.paths import shown_path
from noether.cli.output import (
    counted,
    duration_in_words,
    print_facts,
    print_section,
    print_table,
    say,
    size_in_words,
)
from noether.metrics.metrics_file import spell_number
from noether.runs.results.summary import Evaluated, RunSummary
from noether.runs.results.table import FACTS, RunTable, moment, next_commands, run_argument
from noether.spec.diff import ABSENT
from noether.spec.errors.words import toml_literal

_MOST_SETTINGS = 6
"""Columns of settings; more make the table of runs hard to read."""
_MOST_CHECKPOINTS = 5
_LONGEST_SETTING = 40  # characters
_PARTS = ("data", "forward", "backward", "update")


def number(value: float | None) -> str:
    """Return a metric's value with five digits; `-` if there is none."""
    return "-" if value is None else f"{value:.5g}"


def setting(value: Any) -> str:
    """Return the value of a setting in one short line; `-` if there is none."""
    text = "-" if value is ABSENT else value if isinstance(value, str) else toml_literal(value)
    return text if len(text) <= _LONGEST_SETTING else f"{text[: _LONGEST_SETTING - 1]}…"


def plain(value: Any) -> Any:
    """Return a value as strict JSON has it: no non-finite numbers, null for what a run does not have."""
    if isinstance(value, float):
        return spell_number(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if value is ABSENT else value if isinstance(value, str | int | None) else str(value)


# The list


def print_runs(table: RunTable) -> None:
    """Print a line for each run, and a note below the table for each that is damaged."""
    shown = list(table.settings)[:_MOST_SETTINGS]
    judged = {one.key for run in table.runs for one in run.evaluations if one.best is not None}
    rows = []
    for place, run in enumerate(table.runs):
        row = {
            "id": run.run_id,
            "status": run.status,
            "created": "-" if run.created is None else moment(run.created)[:16].replace("T", " "),
            "duration": duration_in_words(run.seconds),
            "updates": f"{run.update:,}",
        }
        row |= {key: setting(table.settings[key][place]) for key in shown}
        for key in table.metrics:
            found = run.evaluated(key)
            row[f"last {key}"] = number(found.final if found else None)  # a metric may have the name of another column
            if key in judged:
                row[f"best {key}"] = number(found.best if found else None)
        rows.append(row)
    titles = {f"last {key}": key for key in table.metrics} | {f"best {key}": "BEST" for key in table.metrics}
    print_table(rows, right={"duration", *titles}, titles=titles)
    if more := len(table.settings) - len(shown):
        say(f"{counted(more, 'more setting')} differ{'s' if more == 1 else ''}: --json has all")
    for run in (run for run in table.runs if run.problem):
        say(f"{run.run_id} is damaged: {run.problem}")


def csv_of_runs(table: RunTable) -> Iterable[Sequence[Any]]:
    """Yield a header and a row for each run, with all evaluation metrics."""
    keys = list(dict.fromkeys((*table.metrics, *(one.key for run in table.runs for one in run.evaluations))))
    metrics = [name for key in keys for name in (key, f"{key}/best")]
    yield [
        "id",
        "folder",
        "name",
        "status",
        "created",
        "seconds",
        "updates",
        "epochs",
        "samples",
        *table.settings,
        *metrics,
        "problem",
    ]
    for place, run in enumerate(table.runs):
        found = [run.evaluated(key) for key in keys]
        values = [value for one in found for value in ((one.final, one.best) if one else (None, None))]
        created = None if run.created is None else moment(run.created)
        settings = [csv_cell(values[place]) for values in table.settings.values()]
        yield [
            run.run_id,
            str(run.paths.run_path),
            run.name,
            run.status,
            created,
            run.seconds,
            run.update,
            run.epoch,
            run.sample,
            *settings,
            *values,
            run.problem,
        ]


def csv_cell(value: Any) -> Any:
    """Return the value of a setting for comma-separated values; lists and tables as TOML."""
    return None if value is ABSENT else value if isinstance(value, str | int | float) else toml_literal(value)


def run_json(run: RunSummary) -> dict[str, Any]:
    """Return a run as JSON, without its settings."""
    facts = {name: plain(FACTS[name](run)) for name in ("id", "status", "created")}
    return facts | {
        "folder": str(run.paths.run_path),
        "name": run.name,
        "seed": run.seed,
        "seconds": plain(run.seconds),
        "updates": run.update,
        "epochs": run.epoch,
        "samples": run.sample,
        "error": run.error,
        "problem": run.problem,
        "evaluations": [_evaluated_json(one) for one in run.evaluations],
    }


def _evaluated_json(one: Evaluated) -> dict[str, Any]:
    names = "key final final_update final_epoch best best_update best_epoch direction checkpoint"
    return {name: plain(getattr(one, name)) for name in names.split()}


def settings_json(table: RunTable, row: int) -> dict[str, Any]:
    """Return the settings of a run that are not the same in all runs of a table."""
    return {key: plain(values[row]) for key, values in table.settings.items()}


# One run


def print_run(run: RunSummary) -> None:
    """Print everything about a run that fits on a screen."""
    say(f"{run.run_id}  {run.status}{f': {run.error}' if run.error else ''}")
    print_facts(_facts(run), indent="  ")
    if run.evaluations:
        say()
        print_table([_metric_row(one) for one in run.evaluations], right={"last", "best"})
    parts = {part: value for part in _PARTS if (value := run.metrics.get(f"profiling/{part}_time")) is not None}
    total = sum(parts.values())
    shares = {part: f"{value * 1e3:9.3f} ms  {value / total:4.0%}" for part, value in parts.items() if total > 0}
    print_section("mean time of an update, in the last interval", shares)
    if len(run.attempts) > 1:
        say()
        print_table([_attempt_row(run, place) for place in range(len(run.attempts))])
    _print_checkpoints(run)
    say("\ngo on with")
    for command in next_commands(run):
        say(f"  {command}")


def _facts(run: RunSummary) -> Iterable[tuple[str, str]]:
    if run.problem:
        yield "damaged", run.problem
    yield "spec", run.name + ("" if run.seed is None else f", seed {run.seed}")
    yield "folder", str(shown_path(run.paths.run_path))
    if run.created is not None:
        attempts = "" if len(run.attempts) < 2 else f" in {len(run.attempts)} attempts"
        yield "started", f"{moment(run.created).replace('T', ' ')}, took {duration_in_words(run.seconds)}{attempts}"
    yield "reached", f"update {run.update:,}, epoch {run.epoch:,}, {counted(run.sample, 'sample')}"
    model = _kind(run.tables.get("model"))
    parameters, trained = (_count(run, f"model/{name}") for name in ("parameters", "trainable_parameters"))
    if parameters is not None:
        model += f", {counted(parameters, 'parameter')}" + (
            "" if trained in (None, parameters) else f", {trained:,} trained"
        )
    yield "model", model
    datasets = run.tables.get("datasets")
    for key, table in datasets.items() if isinstance(datasets, dict) else ():
        samples = _count(run, f"data/{key}/samples")
        yield f"data {key}", _kind(table) + ("" if samples is None else f", {counted(samples, 'sample')}")


def _kind(table: Any) -> str:
    return str(table.get("kind", "-")) if isinstance(table, dict) else "-"


def _count(run: RunSummary, key: str) -> int | None:
    value = run.metrics.get(key)
    return int(value) if value is not None and math.isfinite(value) else None


def _metric_row(one: Evaluated) -> dict[str, object]:
    best = "-" if one.best_update is None else f"{one.best_update:,} (epoch {one.best_epoch:,})"
    return {
        "metric": one.key,
        "last": number(one.final),
        "at update": f"{one.final_update:,}",
        "best": number(one.best),
        "best at": best,
        "checkpoint": one.checkpoint or "-",
    }


def _attempt_row(run: RunSummary, place: int) -> dict[str, object]:
    attempt = run.attempts[place]
    started, ended = attempt.time_of("started"), attempt.time_of("ended")
    is_over = place + 1 < len(run.attempts) or run.status != "RUNNING"
    return {
        "attempt": attempt.number,
        "started": "-" if started is None else moment(started).replace("T", " "),
        "took": "-" if started is None or ended is None else duration_in_words(ended - started),
        "status": "KILLED" if attempt.status == "RUNNING" and is_over else attempt.status,
        "from": attempt.record.get("resumed_from") or "-",
        "reason": attempt.record.get("reason") or "-",
    }


def _print_checkpoints(run: RunSummary) -> None:
    if not run.checkpoints:
        return
    rows = [
        {"checkpoint": one.name, "names": ", ".join(one.names) or "-", "size": size_in_words(one.size)}
        if one.problem is None
        else {"checkpoint": one.name, "names": f"damaged: {one.problem}", "size": "-"}
        for one in run.checkpoints[-_MOST_CHECKPOINTS:]
    ]
    say()
    print_table(rows, right={"size"})
    if older := len(run.checkpoints) - len(rows):
        say(f"and {counted(older, 'older one')}: noether checkpoint list {run_argument(run)}")


def details_json(run: RunSummary) -> dict[str, Any]:
    """Return what `show` adds to the JSON of a run: settings, all metrics, attempts, checkpoints."""
    checkpoints = [
        {
            "name": one.name,
            "names": list(one.names),
            "update": one.update,
            "resumable": one.resumable,
            "problem": one.problem,
        }
        for one in run.checkpoints
    ]
    return {
        "settings": plain(run.tables),
        "metrics": plain(run.metrics),
        "attempts": [{"number": one.number} | plain(one.record) for one in run.attempts],
        "checkpoints": checkpoints,
        "next": next_commands(run),
    }
