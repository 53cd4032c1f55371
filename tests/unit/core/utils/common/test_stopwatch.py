"""Elapsed seconds."""

from __future__ import annotations

from time import perf_counter, sleep

import pytest

from noether.core.utils.common.stopwatch import Stopwatch


def test_stopwatch_measures_no_more_than_the_time_around_it() -> None:
    began = perf_counter()
    with Stopwatch() as watch:
        sleep(0.002)
    around = perf_counter() - began
    assert 0.002 <= watch.elapsed_seconds <= around


def test_time_between_stop_and_start_does_not_count() -> None:
    watch = Stopwatch()
    watch.start().stop()
    first = watch.elapsed_seconds
    sleep(0.01)
    second = watch.start().stop()
    assert first <= second < first + 0.01


def test_stop_returns_the_sum_of_all_rounds() -> None:
    watch = Stopwatch(elapsed_seconds=5.0)
    assert watch.start().stop() == watch.elapsed_seconds >= 5.0


def test_stopwatch_stops_when_the_block_raises() -> None:
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch:
        1 / 0  # noqa: B018
    assert watch.elapsed_seconds > 0
