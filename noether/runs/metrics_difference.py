"""Where the metrics of two runs differ, but for what the clock decides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import zip_longest
from pathlib import Path

from noether.metrics.metrics_file import MetricRecord, MetricsFile, spell_number

CLOCK = "profiling/"
_Line = tuple[int, int, int, Mapping[str, float | str]]


def metric_difference(straight: Path, interrupted: Path, ignored: Collection[str] = ()) -> tuple[str, str] | None:
    """Return the first difference of two metrics files; None where they are equal.

    Args:
        straight: The file of a run that was not interrupted.
        interrupted: The file of one that was.
        ignored: Keys that are not compared.

    Returns:
        The key, the first one where a whole line differs, and how it differs.
    """
    lines = zip_longest(_lines(straight, ignored), _lines(interrupted, ignored))
    for one, other in lines:
        if one == other:
            continue
        if one is None or other is None or one[:3] != other[:3]:
            first = min((line for line in (one, other) if line is not None), key=lambda line: line[0])
            run, keys = "straight" if first is one else "interrupted", ", ".join(first[3])
            return next(iter(first[3])), f"only the {run} run has a line at update {first[0]} with {keys}"
        for key in sorted(one[3].keys() | other[3].keys()):
            values = one[3].get(key, "nothing"), other[3].get(key, "nothing")
            if values[0] != values[1]:
                return key, f"{values[0]} straight, {values[1]} interrupted, at update {one[0]}"
    return None


def clock_keys(straight: Path, interrupted: Path, until: int) -> frozenset[str]:
    """Return the keys whose values differ up to an update before which neither run was interrupted."""
    one, other = (
        {line[0]: line[3] for line in _lines(path, ()) if line[0] <= until} for path in (straight, interrupted)
    )
    return frozenset(
        key
        for update in one.keys() & other.keys()
        for key in one[update].keys() & other[update].keys()
        if one[update][key] != other[update][key]
    )


def _lines(path: Path, ignored: Collection[str]) -> list[_Line]:
    """Return the lines that are compared; numbers that JSON lacks as text, which equals itself."""
    records = MetricsFile(path).read() if path.exists() else ()
    lines = [(record.update, record.epoch, record.sample, _compared(record, ignored)) for record in records]
    return [line for line in lines if line[3]]


def _compared(record: MetricRecord, ignored: Collection[str]) -> dict[str, float | str]:
    return {
        key: spell_number(value)
        for key, value in record.metrics.items()
        if not key.startswith(CLOCK) and key not in ignored
    }
