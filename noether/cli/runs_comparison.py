"""Output of `noether runs compare`: tables, JSON and comma-separated values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from noether.cli.output import print_table, say
from noether.cli.runs_text import csv_cell, number, plain, setting
from noether.runs.results.compare import Comparison, Difference, Group, MetricRow, Sample


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
