"""The end of a run waits for uploads within bounds."""

import logging
import threading
import time

import pytest

from noether.runs.mirror import feed
from noether.runs.mirror.feed import Mirror


class Signals:
    count = 0


@pytest.fixture
def hanging(tiny_run, monkeypatch):
    """A mirror whose store gives no answer."""

    def wait(uploader, request, check):
        while True:
            check()
            time.sleep(0.005)

    monkeypatch.setattr(feed._Uploader, "ask", wait)
    mirror = Mirror("faulty://bucket/runs", tiny_run.paths, timeout_s=60)
    mirror.start(tiny_run.writer, lambda: None)
    yield mirror
    mirror.abandon()


def seconds(wait):
    began = time.monotonic()
    wait()
    return time.monotonic() - began


def test_it_waits_for_the_time_of_the_spec_and_names_what_is_missing(hanging, caplog):
    hanging._timeout_s = 0.2
    with caplog.at_level(logging.WARNING):
        assert 0.2 <= seconds(hanging.close) < 20
    assert "step-000000000001, step-000000000002" in caplog.text


def test_after_ctrl_c_it_waits_for_a_few_seconds(hanging, monkeypatch):
    monkeypatch.setattr(feed, "_AFTER_CTRL_C_S", 0.1)
    assert seconds(lambda: hanging.close(Signals(), is_interrupt=True)) < 20


def test_another_signal_ends_the_waiting(hanging):
    signals = Signals()
    signals.count = 1  # by which the run ended
    timer = threading.Timer(0.1, lambda: setattr(signals, "count", 2))
    timer.start()
    assert 0.1 <= seconds(lambda: hanging.close(signals)) < 20
    timer.join()


def test_nothing_is_uploaded_for_a_run_that_another_process_took_over(hanging):
    hanging.abandon()
    hanging._thread.join(20)
    assert not hanging._thread.is_alive()


def test_a_mirror_that_was_not_started_ends_at_once(tiny_run):
    Mirror("faulty://bucket/runs", tiny_run.paths, timeout_s=60).close()
