"""Signals stop training after the current update."""

from __future__ import annotations

import signal
import threading

import pytest

from noether.training.signals import StoppedBySignal, StopSignals


def test_sigterm_is_remembered_instead_of_ending_the_process() -> None:
    with StopSignals(save_on_sigint=False) as signals:
        assert signals.received is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_a_second_signal_ends_at_once() -> None:
    with (
        pytest.raises(StoppedBySignal) as caught,
        StopSignals(save_on_sigint=False) as signals,
        signals.interrupting(),
    ):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert "SIGTERM" in str(caught.value)


def test_where_nothing_may_be_interrupted_a_second_signal_is_only_noted() -> None:
    with StopSignals(save_on_sigint=False) as signals:
        signal.raise_signal(signal.SIGTERM)
        assert not signals.insists
        signal.raise_signal(signal.SIGTERM)
        assert signals.insists


def test_a_commit_is_finished_before_a_second_signal_ends_the_run() -> None:
    done = []
    with StopSignals(save_on_sigint=False) as signals, pytest.raises(StoppedBySignal), signals.interrupting():
        with signals.uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            done.append("the commit")
        done.append("what comes after it")
    assert done == ["the commit"]


def test_a_third_signal_does_what_it_does_by_default() -> None:
    with StopSignals(save_on_sigint=True) as signals, pytest.raises(KeyboardInterrupt), signals.uninterrupted():
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_further_signals_stop_where_they_are_named(name: str) -> None:
    before = signal.getsignal(signal.Signals[name])
    with StopSignals(save_on_sigint=False, names=[name, "SIGTERM"]) as signals:
        signal.raise_signal(signal.Signals[name])
        assert signals.name == name
    assert signal.getsignal(signal.Signals[name]) == before


def test_entered_inside_of_itself_it_remembers_what_arrived() -> None:
    with StopSignals(save_on_sigint=False) as signals:
        signal.raise_signal(signal.SIGTERM)
        with signals:
            assert signals.received == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)  # still handled
    with signals:
        assert signals.received is None


def test_a_background_job_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals(save_on_sigint=False):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_except_exception_of_a_callback_holds_a_second_signal_up() -> None:
    assert not issubclass(StoppedBySignal, Exception)


def test_ctrl_c_interrupts_at_once_unless_it_is_to_save() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals(save_on_sigint=False) as signals, signals.interrupting():
        signal.raise_signal(signal.SIGINT)
    with StopSignals(save_on_sigint=True) as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT


def test_handlers_are_put_back_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(ZeroDivisionError), StopSignals(save_on_sigint=True):
        assert signal.getsignal(signal.SIGTERM) != before[0]
        1 / 0  # noqa: B018
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_outside_of_the_main_thread_it_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def train() -> None:
        with StopSignals(save_on_sigint=True):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before]
