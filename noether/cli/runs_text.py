"""Output of `noether runs`: tables, facts, JSON and comma-separated values of runs and comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noether.checkpoint.paths import shown_path
from noether.cli.output import picked, print_facts, print_section, print_table, say, size_in_words
from noether.metrics.metrics_file import spell_number
from noether.runs.results.compare import Comparison, Difference, Group, MetricRow, Sample
from noether.runs.results.summary import Evaluated, RunSummary
from noether.runs.results.table import FACTS, RunTable, moment, next_commands, run_argument
from noether.spec.errors.words import counted, duration_in_words, toml_literal
from noether.spec.overlay import ABSENT

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
    facts = ["id", "folder", "name", "status", "created", "seconds", "updates", "epochs", "samples"]
    yield [*facts, *table.settings, *metrics, "problem"]
    for place, run in enumerate(table.runs):
        found = [run.evaluated(key) for key in keys]
        values = [value for one in found for value in ((one.final, one.best) if one else (None, None))]
        created = None if run.created is None else moment(run.created)
        settings = [csv_cell(values[place]) for values in table.settings.values()]
        named = (run.run_id, str(run.paths.run_path), run.name, run.status, created)
        yield [*named, run.seconds, run.update, run.epoch, run.sample, *settings, *values, run.problem]


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
    found: dict[str, Any] = plain(picked(one, names))
    return found


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
        "from": attempt.continued_from or "-",
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
    checkpoints = [picked(one, "name names update resumable problem") for one in run.checkpoints]
    return {
        "settings": plain(run.tables),
        "metrics": plain(run.metrics),
        "attempts": [{"number": one.number} | plain(one.record) for one in run.attempts],
        "checkpoints": checkpoints,
        "next": next_commands(run),
    }


def print_comparison(found: Comparison) -> None:
    """Print the groups, the settings in which they differ, and each metric with its differences from the first."""
    print_table([_group_row(group) for group in found.groups])
    if len(found.groups) > 1:
        say()
        rows = [
            {"setting": key} | {group.label: setting(value) for group, value in zip(found.groups, values, strict=True)}
            for key, values in found.settings.items()
        ]
        print_table(rows) if rows else say("the settings are the same")
    is_one = len(found.groups) == 1
    shared = [row for row in found.rows if is_one or sum(sample is not None for sample in row.samples) > 1]
    lines = [line for row in shared for line in (_by_run(found.groups[0], row) if is_one else _metric_rows(found, row))]
    if lines:
        say()
        titles = {f"of {run.paths.run_path}": run.run_id for run in found.groups[0].runs}
        print_table(lines, right={"value", "difference", "mean"}, titles=titles)
    for line in _notes(found):
        say(line)


def _group_row(group: Group) -> dict[str, object]:
    states = ", ".join(dict.fromkeys(run.status for run in group.runs))
    updates = sorted({run.update for run in group.runs})
    return {
        "group": group.label,
        "runs": ", ".join(run.run_id for run in group.runs),
        "seeds": ", ".join(map(str, group.seeds)) or "-",
        "status": states,
        "updates": f"{updates[0]:,}" if len(updates) == 1 else f"{updates[0]:,} to {updates[-1]:,}",
    }


def _metric_rows(found: Comparison, row: MetricRow) -> Iterable[dict[str, object]]:
    wanted = {"min": " (lower is better)", "max": " (higher is better)", None: ""}[row.direction]
    for place, (group, sample, difference) in enumerate(zip(found.groups, row.samples, row.differences, strict=True)):
        yield {
            "metric": "" if place else row.key + wanted,
            "group": group.label,
            "value": _sample_text(sample),
            "difference": "" if difference is None else f"{difference.value:+.4g}",
            "": "" if difference is None else _judged(difference),
        }


def _by_run(group: Group, row: MetricRow) -> list[dict[str, object]]:
    sample = row.samples[0]
    by_run = sample.by_run if sample else {}
    line: dict[str, object] = {"metric": row.key, "mean": _sample_text(sample)}
    return [line | {f"of {path}": number(by_run.get(path)) for path in (str(run.paths.run_path) for run in group.runs)}]


def _sample_text(sample: Sample | None) -> str:
    if sample is None:
        return "-"
    return number(sample.mean) + ("" if sample.deviation is None else f" ± {_two_digits(sample.deviation)}")


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.2g}".rstrip(".")


def _judged(difference: Difference) -> str:
    words = {True: "better", False: "worse", None: ""}[difference.is_better]
    if difference.margin is None or difference.verdict == "unknown":
        return words
    spread = f"{difference.verdict} the spread of {_two_digits(difference.margin)}"
    return f"{words}, {spread}" if words else spread


def _notes(found: Comparison) -> Iterable[str]:
    yield _about_spread(found.groups)
    for place, group in enumerate(found.groups) if len(found.groups) > 1 else ():
        only = [row.key for row in found.rows if [n for n, sample in enumerate(row.samples) if sample] == [place]]
        if only:
            yield f"only {group.label} has {', '.join(only)}"
    for group in found.groups:
        seeds = [run.seed for run in group.runs if run.seed is not None]
        for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            yield f"{group.label} has the seed {seed} more than once: the last of its runs counts"
    if found.ends_differ:
        yield "the runs ended at different updates: their last values are not from the same update"
    for run in (run for group in found.groups for run in group.runs if run.problem):
        yield f"{run.run_id} is damaged: {run.problem}"


def _about_spread(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        return "one group: the runs differ in nothing but seed, name and output; mean ± standard deviation over seeds"
    single = [group.label for group in groups if len(group.seeds) < 2]
    if len(single) == len(groups):
        return "one seed each: no spread known"
    if single:
        return f"one seed in {', '.join(single)}: no spread known"
    return "value: mean ± standard deviation over seeds; spread: two standard errors of the difference of means"


def csv_of_comparison(found: Comparison) -> Iterable[Sequence[Any]]:
    """Yield a header and a row for each metric in each group, with the settings that differ."""
    yield ["metric", "group", "runs", "seeds", *found.settings, "mean", "deviation", "difference", "margin", "verdict"]
    for row in found.rows:
        for place, (group, sample, difference) in enumerate(
            zip(found.groups, row.samples, row.differences, strict=True)
        ):
            runs, seeds = (" ".join(map(str, values)) for values in ([run.run_id for run in group.runs], group.seeds))
            settings = [csv_cell(values[place]) for values in found.settings.values()]
            values = (sample.mean, sample.deviation) if sample else (None, None)
            judged = (difference.value, difference.margin, difference.verdict) if difference else (None, None, None)
            yield [row.key, group.label, runs, seeds, *settings, *values, *judged]


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON."""
    groups = [
        {"label": group.label, "runs": [run.run_id for run in group.runs], "seeds": group.seeds}
        for group in found.groups
    ]
    settings = {
        key: {group.label: plain(value) for group, value in zip(found.groups, values, strict=True)}
        for key, values in found.settings.items()
    }
    return {
        "values": "best" if found.best else "last",
        "groups": groups,
        "settings": settings,
        "metrics": [_row_json(found, row) for row in found.rows],
    }


def _row_json(found: Comparison, row: MetricRow) -> dict[str, Any]:
    by_group = {}
    for group, sample, difference in zip(found.groups, row.samples, row.differences, strict=True):
        by_group[group.label] = {
            "runs": plain(sample.by_run) if sample else {},
            "mean": plain(sample.mean) if sample else None,
            "deviation": plain(sample.deviation) if sample else None,
            "difference": plain(difference.value) if difference else None,
            "margin": plain(difference.margin) if difference else None,
            "verdict": difference.verdict if difference else None,
            "is_better": difference.is_better if difference else None,
        }
    return {"key": row.key, "direction": row.direction, "groups": by_group}
