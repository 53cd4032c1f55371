"""Progress bar of a long pass over a data set, on a terminal only."""

from __future__ import annotations

import io
import sys

import pytest
import rich

from noether.core.callbacks.display import PassBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stdout: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, show_after: float) -> str:
    """Return the output of a pass of three batches."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(rich, "_console", None)  # that of other tests may have bars of its own
    bar = PassBar("test", 3, show_after=show_after)
    for _ in range(3):
        bar.advance()
    bar.close()
    return stdout.getvalue()


def test_a_pass_that_takes_long_shows_its_batches_on_a_terminal_and_leaves_no_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = shown(Terminal(), monkeypatch, show_after=0.0)
    assert "test" in written
    assert "1/3 batches" in written
    assert written.endswith("\x1b[2K")  # the line is erased in the end


def test_a_short_pass_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(Terminal(), monkeypatch, show_after=60.0) == ""


def test_where_no_terminal_is_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(io.StringIO(), monkeypatch, show_after=0.0) == ""
