"""`progress` in files and pipes; `test_display.py` has the bar."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from noether.core.callbacks.default.reporters import ProgressCallback
from noether.testing import make_callback, make_counter, make_trainer

LOGGER = "noether.callbacks.ProgressCallback"


def progress(folder: Path, **settings: Any) -> ProgressCallback:
    callback = make_callback({"kind": "progress", "every_n_updates": 1, **settings}, make_trainer(folder))
    assert isinstance(callback, ProgressCallback)
    return callback


def test_without_a_terminal_there_are_about_as_many_lines_as_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = progress(tmp_path, lines=4)
    counter = make_counter(end_update=100)
    with caplog.at_level(logging.INFO, LOGGER):
        callback.before_training(update_counter=counter)
        while not counter.is_finished:
            counter.update += 1
            callback.periodic_callback(update_counter=counter)
        callback.after_training(update_counter=counter)
    callback.close()
    assert [line.split("  ")[1] for line in caplog.messages] == [f"update {at}/100" for at in (25, 50, 75, 100)]


def test_a_line_shows_the_mean_loss_and_the_evaluations_since_the_line_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = progress(tmp_path, lines=2)
    writer = callback.writer
    callback.before_training(update_counter=make_counter())
    with caplog.at_level(logging.INFO, LOGGER):
        for update, loss in ((25, 1.0), (49, 3.0), (75, 0.25), (99, 0.75)):
            for key, value in (("total", loss), ("y_loss", loss), ("total/online-loss", 9.0)):
                writer.add_scalar(f"loss/online/{key}", value)
            if update < 50:
                writer.add_scalar("rmse/test/y", loss / 10)
                writer.add_scalar("optim/lr", 0.1)
            writer.flush(make_counter(update=update))
            callback.periodic_callback(update_counter=make_counter(update=update + 1))
        callback.after_training(update_counter=make_counter(update=100))
    first, last = caplog.messages
    assert first.startswith("epoch 8  update 50/100")
    assert first.endswith("train 2  rmse/test/y 0.3")
    assert last.startswith("epoch 16  update 100/100")
    assert last.endswith("train 0.5")
    callback.close()
    assert writer.on_written == []
    writer.close()


def test_before_training_there_is_nothing_to_show(tmp_path: Path) -> None:
    callback = progress(tmp_path)
    callback.periodic_callback(interval_type="eval", update_counter=make_counter())
    callback.close()
