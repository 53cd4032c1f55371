"""The watchdog interrupts work that does not come back."""

import threading
from contextlib import nullcontext

import pytest

from noether.data import has_progressed
from noether.kernel import watchdog
from noether.kernel.watchdog import Overdue, Watchdog, in_time


def test_a_report_that_cannot_be_written_does_not_keep_the_work_hanging() -> None:
    def refuse(message: str) -> None:
        raise RuntimeError("no place to write to")

    with pytest.raises(Overdue, match="too late"), Watchdog(lambda: "too late", 0.1, refuse):
        threading.Event().wait(60)


def test_a_sign_of_progress_begins_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now, watched = [0.0], []
    monkeypatch.setattr(watchdog, "monotonic", lambda: now[0])
    monkeypatch.setattr(watchdog, "Watchdog", lambda overdue, *_: nullcontext(watched.append(overdue)))
    with in_time(10.0, ValueError):
        now[0] = 11.0
        assert watched[0]() is not None
        has_progressed()
        assert watched[0]() is None
