"""Curves are read in order, and thinned so that no extreme value is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.checkpoint.paths import PathProvider
from noether.runs.results.report import curves
from noether.runs.results.report.curves import Curves, kept_places, read_curves

VALUES = st.lists(st.floats(width=32), max_size=400)


@given(VALUES, st.integers(5, 80))
def test_thinning_keeps_ends_extremes_and_a_gap_for_what_is_not_finite(values: list[float], most: int) -> None:
    given = np.array(values, dtype=float)
    places = kept_places(given, most)
    kept = given[places]
    assert len(places) <= max(most, 0) and list(places) == sorted(set(places))
    if len(values) <= most:
        assert len(places) == len(values)
        return
    assert places[0] == 0 and places[-1] == len(values) - 1
    finite = given[np.isfinite(given)]
    if len(finite):
        assert kept[np.isfinite(kept)].min() == finite.min()
        assert kept[np.isfinite(kept)].max() == finite.max()
    assert (len(finite) < len(given)) == (not np.isfinite(kept).all())


@given(VALUES, st.integers(6, 60))
def test_each_bucket_keeps_its_own_lowest_and_highest_value(values: list[float], most: int) -> None:
    given = np.array(values, dtype=float)
    kept = set(kept_places(given, most))
    if len(values) <= most:
        return
    size = math.ceil(len(values) / ((most - 2) // 3))
    for start in range(0, len(values), size):
        bucket = [value for value in values[start : start + size] if math.isfinite(value)]
        stays = [values[place] for place in range(start, min(start + size, len(values))) if place in kept]
        stays = [value for value in stays if math.isfinite(value)]
        assert not bucket or (min(stays), max(stays)) == (min(bucket), max(bucket))


@pytest.fixture
def paths(tmp_path: Path) -> PathProvider:
    (tmp_path / "run").mkdir()
    return PathProvider(tmp_path, "run")


def line(update: int, **metrics: Any) -> str:
    return json.dumps(
        {"update": update, "epoch": update // 10, "sample": update * 8, "time": 1e9 + update, "metrics": metrics}
    )


def written(paths: PathProvider, lines: Sequence[str]) -> Curves:
    paths.metrics_path.write_text("".join(f"{one}\n" for one in lines))
    return read_curves(paths)


def test_lines_with_different_keys_stay_in_their_order(paths: PathProvider) -> None:
    found = written(paths, [line(n, a=n, b=2 * n) if n % 5 == 0 else line(n, a=n) for n in range(100)])
    update, value = found.by_key["a"].thinned(1000)
    assert list(update) == list(value) == list(range(100))
    assert list(found.by_key["b"].thinned(1000)[0]) == list(range(0, 100, 5))
    assert found.clock.epochs.tolist() == [[10.0 * n, n] for n in range(10)]


def test_values_that_are_not_finite_are_counted(paths: PathProvider) -> None:
    found = written(paths, [line(1, a=1.0), line(2, a="NaN"), line(3, a="-Infinity"), line(4, a=3.0)]).by_key["a"]
    assert (found.points, found.non_finite, found.mean) == (4, 2, 2.0)
    assert np.isnan(found.thinned(9)[1][1])


@pytest.mark.parametrize(
    "damaged",
    [
        "", "{", "[]", "3", "null", '{"update": 3}', line(-1, a=1.0), line(3, a=[1.0]), line(3, a="text"),
        line(1 << 70, a=1.0), line(3, **{"a\u0007": 1.0}), line(3, a=10**400), "[" * 100_000, "\xff",
        '{"update": 3, "epoch": "x", "sample": 1, "time": 1, "metrics": {}}',
        '{"update": 3, "epoch": 0, "sample": 1, "time": 1e300, "metrics": {}}',
        '{"update": 3, "epoch": 0, "sample": 1, "time": 1, "metrics": "abc"}',
    ],
)  # fmt: skip
def test_damaged_lines_are_left_out_and_counted(paths: PathProvider, damaged: str) -> None:
    found = written(paths, [line(1, a=1.0), damaged, line(2, a=2.0)])
    assert (found.lines, found.damaged) == (3, 1)
    assert found.by_key["a"].thinned(9)[1].tolist() == [1.0, 2.0]


def test_a_long_curve_takes_a_bounded_memory_and_keeps_its_extremes(paths: PathProvider, monkeypatch: Any) -> None:
    monkeypatch.setattr(curves, "_FULL", 64)
    monkeypatch.setattr(curves, "_BATCH_BYTES", 500)
    values = np.sin(np.arange(3000.0))
    values[[0, 1234, 2999]] = 0.5, 70.0, 0.25
    found = written(paths, [line(n, a=value) for n, value in enumerate(values)])
    update, value = found.by_key["a"].thinned(1000)
    assert len(value) < 100 and value.max() == 70.0 and value.min() == values.min()
    assert (update[0], update[-1], found.by_key["a"].points) == (0, 2999, 3000)
    assert found.by_key["a"].mean == pytest.approx(values.mean())


def test_a_pause_between_two_attempts_stays_in_the_clock(paths: PathProvider, monkeypatch: Any) -> None:
    monkeypatch.setattr(curves, "CLOCK_ROWS", 50)
    lines = [json.loads(line(n, a=1.0)) for n in range(2000)]
    for one in lines[1001:]:
        one["time"] += 50_000
    rows = written(paths, [json.dumps(one) for one in lines]).clock.rows
    assert len(rows) <= 60
    before = rows[rows[:, 0] <= 1000][-1]
    assert before[0] == 1000 and rows[rows[:, 0] > 1000][0][2] - before[2] == 50_001


def test_keys_beyond_the_limit_are_counted(paths: PathProvider, monkeypatch: Any) -> None:
    monkeypatch.setattr(curves, "MOST_KEYS", 3)
    found = written(paths, [line(n, **{f"key{k}": 1.0 for k in range(5)}) for n in range(4)])
    assert list(found.by_key) == ["key0", "key1", "key2"] and found.left_out == {"key3", "key4"}
