"""Rate and remaining time of a session."""

from __future__ import annotations

from time import sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.core.callbacks.display import Pace, clock
from noether.testing import make_counter


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00"),
        (59.4, "00:59"),
        (59.6, "01:00"),
        (61, "01:01"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (360_000, "100:00:00"),
    ],
)
def test_clock_is_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@given(st.integers(0, 10**6))
def test_clock_loses_no_second(seconds: int) -> None:
    parts = [int(part) for part in clock(seconds).split(":")]
    assert all(part < 60 for part in parts[-2:])
    assert sum(part * 60**place for place, part in enumerate(reversed(parts))) == seconds


def test_before_the_first_update_there_is_no_rate() -> None:
    pace = Pace(make_counter(update=10))
    assert pace.estimate(make_counter(update=10)) is None


def test_updates_before_a_resume_do_not_count() -> None:
    pace = Pace(make_counter(update=1000, end_update=2000))
    sleep(0.01)
    estimate = pace.estimate(make_counter(update=1001, end_update=2000))
    assert estimate is not None
    rate, remaining = estimate
    assert rate <= 100
    assert remaining >= 9.99


def test_at_the_end_nothing_remains() -> None:
    pace = Pace(make_counter())
    estimate = pace.estimate(make_counter(update=100, end_update=100))
    assert estimate is not None and estimate[1] == 0
