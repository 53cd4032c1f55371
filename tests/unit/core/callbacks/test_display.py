"""Bars on terminals of every width; nothing where no terminal is."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.text import Text

from noether.core.callbacks import display
from noether.core.callbacks.display import (
    LiveBar,
    NotebookBar,
    Pace,
    PassBar,
    Readings,
    _named,
    in_notebook,
    without_bars,
)
from noether.testing import make_counter

RESULTS = {
    "loss/test/only_loss": 0.1847,
    "loss/test/total": 0.1847,
    "rmse/test/elevation": 58.01,
    "r2/test/elevation": 0.91,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stdout: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, show_after: float) -> str:
    """Return the output of a pass of three batches."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stdout)
    display._console.cache_clear()
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


def test_quiet_and_a_terminal_that_cannot_move_its_cursor_have_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with without_bars():
        assert shown(Terminal(), monkeypatch, show_after=0.0) == ""
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    bar = PassBar("test", 1, show_after=0.0)
    bar.advance()
    assert sys.stdout.getvalue() == ""  # type: ignore[attr-defined]


def drawn(monkeypatch: pytest.MonkeyPatch, width: int, *, encoding: str = "utf-8", **environment: str) -> list[str]:
    """Return the lines of a bar in the middle of a run, with their colors."""
    raw = io.BytesIO()
    screen = io.TextIOWrapper(raw, encoding=encoding, newline="")
    console = Console(
        file=screen, width=width, soft_wrap=True, force_terminal=True, _environ={"TERM": "xterm", **environment}
    )
    monkeypatch.setattr(display, "_console", lambda: console)
    counter = make_counter(update=40, end_update=100)
    pace = Pace(make_counter(update=0))
    bar = LiveBar(counter)
    bar.show(counter, lambda: Readings(0.12345, RESULTS, {}), pace, is_last=False)
    screen.flush()
    text = raw.getvalue().decode(encoding)
    bar.close()
    return text.rpartition("\x1b[2K")[2].split("\n")


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 300])
def test_a_bar_fits_into_a_terminal_of_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = [Text.from_ansi(line).plain for line in drawn(monkeypatch, width)]
    assert len(lines) == 2
    assert max(map(len, lines)) < width
    assert "train 0.1235" in lines[0] or width == 20
    assert ("40/100" in lines[0]) == (width >= 60)
    assert "loss/test/total" in lines[1]
    assert "only_loss" not in lines[1]  # it is the total once more
    assert ("r2/test/elevation 0.91" in lines[1]) == (width >= 80)
    assert ("  +" in lines[1]) == (width in (40, 60))


def test_without_unicode_and_colors_a_bar_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(monkeypatch, 100, encoding="ascii", NO_COLOR="1")
    assert "---" in lines[0]
    assert "\x1b[3" not in "".join(lines)


class Notebook:
    """Stands for IPython: a shell with a kernel, and the outputs that it was sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[dict[str, str]] = []
        shell = SimpleNamespace(kernel=self)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=self.display))

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> Notebook:
        self.update(shown, raw=raw)
        return self

    def update(self, shown: dict[str, str], *, raw: bool) -> None:
        self.sent.append(shown)


def test_a_notebook_gets_one_output_that_changes_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    assert in_notebook()
    counter = make_counter()
    bar, pace, time = NotebookBar(counter), Pace(counter), display.monotonic()
    results = Readings(0.2, {"loss/test/<b>": 1.0}, {})
    for place in range(1001):
        monkeypatch.setattr(display, "monotonic", lambda now=time + place * 0.001: now)
        bar.show(counter, lambda: results, pace, is_last=False)
    assert 4 <= len(notebook.sent) <= 6
    assert bar.show(counter, lambda: results, pace, is_last=True)
    assert "train 0.2" in notebook.sent[-1]["text/plain"]
    assert "<progress" in notebook.sent[-1]["text/html"]
    assert "loss/test/&lt;b&gt; 1" in notebook.sent[-1]["text/html"]


def test_a_quiet_run_and_a_shell_without_a_kernel_are_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    Notebook(monkeypatch)
    with without_bars():
        assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


def test_only_the_loss_of_an_only_field_is_left_out_beside_the_total() -> None:
    assert _named({"ema=0.9/loss/test/y_loss": 1.0, "ema=0.9/loss/test/total": 1.0}) == ["ema=0.9/loss/test/total 1"]
    both = {"loss/test/a_loss": 1.0, "loss/test/b_loss": 0.0, "loss/test/total": 1.0}
    assert len(_named(both)) == 3
    assert len(_named({"rmse/test/a": 1.0, "rmse/test/total": 1.0})) == 2  # `total` is a field here
