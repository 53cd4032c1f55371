"""The watchdog interrupts work that does not come back."""

import threading

import pytest

from noether.kernel.watchdog import Overdue, Watchdog


def test_a_report_that_cannot_be_written_does_not_keep_the_work_hanging() -> None:
    def refuse(message: str) -> None:
        raise RuntimeError("no place to write to")

    with pytest.raises(Overdue, match="too late"), Watchdog(lambda: "too late", 0.1, refuse):
        threading.Event().wait(60)
