"""Compare runs: the settings that differ beside the metrics, and the spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from noether.errors import UsageError
from noether.runs.results.summary import RunSummary, folders_of_runs, summary_of_run, told_apart
from noether.runs.results.table import no_such_metric
from noether.spec.overlay import differing_settings, settings_of

_OF_A_SEED = ("seed", "output", "name")
"""Settings in which runs of one group may differ."""
_GLOB = "*?["
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Group:
    """Runs of one spec with different seeds; a run of its own is a group, too.

    Attributes:
        label: `A`, `B`, …
        runs: Its runs.
    """

    label: str
    runs: Sequence[RunSummary]

    @property
    def seeds(self) -> list[int]:
        """The different seeds, in order; runs of one seed give the same values, and show no spread."""
        return sorted({run.seed for run in self.runs if run.seed is not None})

    def sample(self, key: str, *, best: bool) -> Sample | None:
        """Return the values of a metric; None if no run has it."""
        found = [(run, one) for run in self.runs if (one := run.evaluated(key)) is not None]
        values = [(run, one.best if best else one.final) for run, one in found]
        known = [(run, value) for run, value in values if value is not None]
        updates = {one.best_update if best else one.final_update for _, one in found}
        return Sample(
            {str(run.paths.run_path): value for run, value in known},
            tuple({run.seed: value for run, value in known if run.seed is not None}.values()),
            tuple(sorted(update for update in updates if update is not None)),
        ) if known else None  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Values of a metric in a group.

    Attributes:
        by_run: Value by run folder.
        by_seed: One value for each seed.
        updates: Updates of the values.
    """

    by_run: dict[str, float]
    by_seed: tuple[float, ...]
    updates: tuple[int, ...] = ()

    @property
    def values(self) -> tuple[float, ...]:
        """One value for each seed; of runs without a known seed their values."""
        return self.by_seed or tuple(self.by_run.values())

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)  # exact: large values do not overflow, and inf with -inf is NaN

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds, with n - 1; None of a single one."""
        if len(self.by_seed) < 2:
            return None
        try:
            return statistics.stdev(self.by_seed) if all(map(math.isfinite, self.by_seed)) else math.nan
        except OverflowError:
            return math.inf


Verdict = Literal["beyond", "within", "unknown"]


@dataclass(frozen=True)
class Difference:
    """The difference of a group from the first one in a metric.

    Attributes:
        value: Difference of the means.
        margin: Two standard errors of the difference; None if one of the groups has a single seed.
        is_better: True if the group is better than the first, False if it is worse; None if they are equal, or the
            direction of the metric is not known.
    """

    value: float
    margin: float | None
    is_better: bool | None

    @property
    def verdict(self) -> Verdict:
        """`beyond` the spread over seeds if the difference is larger than its margin, `within` it, or `unknown`."""
        if self.margin is None or not math.isfinite(self.margin) or not math.isfinite(self.value):
            return "unknown"
        return "beyond" if abs(self.value) > self.margin else "within"


@dataclass(frozen=True)
class MetricRow:
    """A metric in all groups.

    Attributes:
        key: The metric key.
        direction: As in `Evaluated`.
        samples: Its values by group; None in a group that does not log it.
        differences: Differences from the first group; None of the first, and if one of both has no value.
    """

    key: str
    direction: Literal["min", "max"] | None
    samples: Sequence[Sample | None]
    differences: Sequence[Difference | None]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the settings in which they differ, and their metrics.

    Attributes:
        groups: The groups.
        settings: Values by setting, one for each group, without `seed` and `output` within a group.
        rows: The metrics.
        best: True if best values are compared, False for the last ones.
    """

    groups: Sequence[Group]
    settings: dict[str, list[Any]] = field(default_factory=dict)
    rows: Sequence[MetricRow] = ()
    best: bool = False

    @property
    def ends_differ(self) -> bool:
        """True if last values of one metric are compared that come from different updates."""
        updates = [{update for sample in row.samples if sample for update in sample.updates} for row in self.rows]
        return not self.best and any(len(found) > 1 for found in updates)


def compare_runs(
    given: Sequence[str], output: str | Path = "runs", *, metrics: Sequence[str] = (), best: bool = False
) -> Comparison:
    """Compare runs; those of equal specs but for the seed are one group.

    Args:
        given: Run folders, ids of runs below `output`, or patterns of ids: `'wide-*'`. The runs of different patterns
            are never one group.
        output: Folder that holds the runs.
        metrics: Keys to compare; all evaluation metrics by default.
        best: Compare the best values instead of the last ones.

    Raises:
        UsageError: if a run does not exist, its spec cannot be read, fewer than two runs are given, or no run has one
            of the metrics.
    """
    chosen = _chosen(given, Path(output))
    if len(chosen) == 1 < len(given):
        raise UsageError(
            f"found one run under {len(given)} names, expected at least two: {chosen[0][1].paths.run_path}",
            hint="`noether runs list` shows the others",
        )
    return compared(chosen, metrics=metrics, best=best)


def compared(
    chosen: Sequence[tuple[str, RunSummary]], *, metrics: Sequence[str] = (), best: bool = False
) -> Comparison:
    """Compare summaries, each with the pattern that named its run; see `compare_runs`."""
    if len(chosen) < 2:
        raise UsageError(
            f"found {len(chosen) or 'no'} run to compare, expected at least two",
            hint="name several: noether runs compare A B, or a pattern: noether runs compare 'wide-*' 'narrow-*'",
        )
    groups = _groups(chosen)
    known = list(dict.fromkeys(one.key for _, run in chosen for one in run.evaluations))
    for key in metrics:
        if not any(run.evaluated(key) for _, run in chosen):
            raise no_such_metric(key, known)
    settings = differing_settings([group.runs[0].tables for group in groups])
    if any(len(group.runs) > 1 for group in groups):
        settings.pop("seed", None)
    settings.pop("output", None)
    return Comparison(groups, settings, [_row(key, groups, best) for key in metrics or known], best)


def _chosen(given: Sequence[str], output: Path) -> list[tuple[str, RunSummary]]:
    """Return the runs that were given, each once, with the pattern that names it; an empty one for a run by name."""
    chosen: dict[Path, tuple[str, RunSummary]] = {}
    for name in given:
        runs = named_by(name, output)
        for run in runs:
            summary = summary_of_run(run, output)
            chosen.setdefault(summary.paths.run_path, ("" if runs == [name] else name, summary))
    for _, summary in chosen.values():
        if not summary.tables:
            raise UsageError(
                f"{summary.paths.run_path} cannot be compared: {summary.problem or 'it has no spec'}",
                hint="`noether runs list` shows the others",
            )
    patterns, summaries = zip(*chosen.values(), strict=True)
    return list(zip(patterns, told_apart(summaries), strict=True))


def named_by(pattern: str, output: Path) -> list[str]:
    """Return the runs below a folder whose ids match a pattern; a name that is none stands for itself.

    Raises:
        UsageError: if no id matches.
    """
    if not any(letter in pattern for letter in _GLOB) or Path(pattern).exists():
        return [pattern]
    names = [folder.name for folder in folders_of_runs(output)] if output.is_dir() else []
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(
            f"no run in {output} matches {pattern!r}",
            hint="`noether runs list` shows their ids; --output names another folder",
        )
    return [str(output / name) for name in found]


def _groups(chosen: Iterable[tuple[str, RunSummary]]) -> list[Group]:
    """Return the groups in the order in which their first runs were given."""
    places: dict[tuple[str, str], list[RunSummary]] = {}
    for pattern, run in chosen:
        places.setdefault((pattern, _signature(run)), []).append(run)
    return [Group(_label(place), runs) for place, runs in enumerate(places.values())]


def _signature(run: RunSummary) -> str:
    """Return a text that is equal for runs of equal specs apart from the seed."""
    settings = settings_of(run.tables)
    for key in _OF_A_SEED:
        settings.pop(key, None)
    return repr(_sorted(settings))


def _sorted(value: Any) -> Any:
    """Return a value in which the order of keys does not count, and 1 and 1.0 are the same."""
    if isinstance(value, dict):
        return sorted((key, _sorted(item)) for key, item in value.items())
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _label(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"#{place + 1}"


def _row(key: str, groups: Sequence[Group], best: bool) -> MetricRow:
    samples = [group.sample(key, best=best) for group in groups]
    found = (run.evaluated(key) for group in groups for run in group.runs)
    direction = next((one.direction for one in found if one is not None and one.direction), None)
    first = samples[0]
    differences = [
        None if sample is None or first is None else _difference(first, sample, direction) for sample in samples[1:]
    ]
    return MetricRow(key, direction, samples, [None, *differences])


def _difference(first: Sample, other: Sample, direction: str | None) -> Difference:
    value, margin = other.mean - first.mean, None
    if first.deviation is not None and other.deviation is not None:
        error = math.hypot(first.deviation / len(first.by_seed) ** 0.5, other.deviation / len(other.by_seed) ** 0.5)
        margin = _STANDARD_ERRORS * error
    is_better = (value < 0) is (direction == "min") if direction and value and not math.isnan(value) else None
    return Difference(value, margin, is_better)
