"""Progress: lines in files and pipes, a bar on a terminal."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.core.callbacks.default.progress import LiveBar, PlainLines, ProgressCallback
from noether.core.callbacks.display import Pace
from noether.testing import make_callback, make_counter, make_trainer

LOGGER = "noether.callbacks.ProgressCallback"


def progress(folder: Path, **settings: Any) -> ProgressCallback:
    callback = make_callback({"kind": "progress", "every_n_updates": 1, **settings}, make_trainer(folder))
    assert isinstance(callback, ProgressCallback)
    return callback


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ProgressCallback:
    return progress(tmp_path_factory.mktemp("run"))


class Lines(logging.Handler):
    """Keeps what was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(record.getMessage())


@given(end=st.integers(1, 200), lines=st.integers(1, 30), start=st.integers(0, 50))
def test_plain_lines_are_about_as_many_as_asked_and_the_last_update_has_one(
    shared: ProgressCallback, end: int, lines: int, start: int
) -> None:
    callback, seen = shared, Lines()
    callback.lines = lines
    callback.logger.addHandler(seen)
    callback.logger.setLevel(logging.INFO)
    try:
        counter = make_counter(update=min(start, end - 1), end_update=end)
        display, pace = PlainLines(callback, counter), Pace(counter)
        while not counter.is_finished:
            counter.update += 1
            display.show(counter, lambda: "online 0.5", pace, is_last=counter.is_finished)
        display.close()
    finally:
        callback.logger.removeHandler(seen)
    assert len(seen.written) <= 2 * lines + 1
    assert f"update {end}/{end}" in seen.written[-1]
    assert all("updates/s" in line and "left  online 0.5" in line for line in seen.written)


def test_without_a_terminal_lines_show_the_mean_since_the_line_before_and_the_last_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = progress(tmp_path, lines=2)
    writer = callback.writer
    callback.before_training(update_counter=make_counter())
    with caplog.at_level(logging.INFO, LOGGER):
        for update, loss in ((25, 1.0), (49, 3.0), (75, 0.25), (99, 0.75)):
            for key, value in (("total", loss), ("y_loss", loss), ("total/online-loss", 9.0)):
                writer.add_scalar(f"loss/online/{key}", value)
            writer.add_scalar("loss/test/total", loss / 10)
            writer.flush(make_counter(update=update))
            callback.periodic_callback(update_counter=make_counter(update=update + 1))
        callback.after_training(update_counter=make_counter(update=100))
    first, last = caplog.messages
    assert first.startswith("epoch 8  update 50/100")
    assert first.endswith("online 2  test 0.3")
    assert last.startswith("epoch 16  update 100/100")
    assert last.endswith("online 0.5  test 0.075")
    callback.close()
    assert writer.on_written == []
    writer.close()


def test_before_training_there_is_nothing_to_show(tmp_path: Path) -> None:
    callback = progress(tmp_path)
    callback.periodic_callback(interval_type="eval", update_counter=make_counter())
    callback.close()


def test_a_bar_shows_where_the_run_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "200")
    counter = make_counter(end_update=40)
    bar, pace = LiveBar(counter), Pace(counter)
    bar.show(make_counter(update=40, end_update=40), lambda: "online 0.5  [b] 0.25", pace, is_last=True)
    bar.close()
    assert "40/40" in screen.getvalue()
    assert "online 0.5  [b] 0.25" in screen.getvalue()
