"""Costs of hooks: own time without that of others inside, and counted operators."""

import pytest
import torch

from noether.runs.measure import hook_costs
from noether.runs.measure.hook_costs import Meter, counting, dearest


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands unless it is told to go on."""

    class Clock:
        seconds, idle = 0.0, 0.0

        def __call__(self):
            return self.seconds

    clock = Clock()
    monkeypatch.setattr(hook_costs, "perf_counter", clock)
    monkeypatch.setattr(hook_costs, "thread_time", lambda: clock.seconds - clock.idle)
    return clock


@pytest.fixture
def meter():
    meter = Meter()
    meter.is_timing = True
    return meter


def test_a_call_inside_of_another_belongs_to_its_own_callback(clock, meter):
    outer, inner = meter.around("after_epoch", "ema"), meter.around("after_epoch", "ema/loss")
    for _ in range(2):
        with outer():
            clock.seconds += 1
            with inner():
                clock.seconds += 10
            clock.seconds += 2
    found = {one.name: one for one in meter.costs(updates=4, seconds=40.0)}
    assert found["ema"].us == pytest.approx(2 * 3e6 / 4)
    assert found["ema/loss"].us == pytest.approx(2 * 10e6 / 4)
    assert found["ema"].calls == 0.5
    assert found["ema/loss"].share == pytest.approx(0.5)


def test_the_dearest_callback_comes_first_with_all_of_its_hooks(clock, meter):
    for hook, name, seconds in [("after_update", "a", 1), ("after_update", "b", 3), ("after_epoch", "a", 4)]:
        with meter.around(hook, name)():
            clock.seconds += seconds
    costs = meter.costs(1, 10.0)
    assert [(one.name, one.hook) for one in costs] == [
        ("a", "after_epoch"),
        ("a", "after_update"),
        ("b", "after_update"),
    ]
    assert list(dearest(costs)) == ["a", "b"]


def test_calls_around_training_and_those_that_were_not_timed_are_left_out(clock):
    meter = Meter()
    with meter.around("after_update", "a")():
        clock.seconds += 1
    meter.is_timing = True
    with meter.around("before_training", "a")():
        clock.seconds += 1
    assert meter.costs(1, 2.0) == []


def test_a_rare_call_counts_as_often_as_in_the_whole_run(clock, meter):
    with meter.around("periodic_callback", "a")():
        clock.seconds += 1
    (found,) = meter.costs(updates=10, seconds=100.0, rates={"a": 0.05})
    assert found.calls == 0.05
    assert found.us == pytest.approx(0.05e6)


@pytest.mark.parametrize(("waited", "own"), [(0.0, 4.0), (1.0, 3.0), (9.0, 2.0)], ids=["asleep", "both", "waiting"])
def test_waiting_for_a_processor_is_taken_off_and_sleep_is_not(clock, monkeypatch, waited, own):
    monkeypatch.setattr(hook_costs, "_nanoseconds_waited", lambda: 0)
    meter = Meter()
    meter.is_timing = True
    with meter.around("after_update", "a")():
        clock.seconds += 4
        clock.idle += 2
        monkeypatch.setattr(hook_costs, "_nanoseconds_waited", lambda: waited * 1e9)
    (found,) = meter.costs(updates=1, seconds=5.0)
    assert found.us == pytest.approx(own * 1e6)


def test_waiting_in_a_call_inside_of_another_is_taken_off_once(clock, monkeypatch):
    waited = [0]
    monkeypatch.setattr(hook_costs, "_nanoseconds_waited", lambda: waited[0])
    meter = Meter()
    meter.is_timing = True
    with meter.around("after_epoch", "a")():
        clock.seconds += 1
        with meter.around("periodic_callback", "a")():
            clock.seconds += 5
            clock.idle += 3
            waited[0] += int(3e9)
    found = {one.hook: one.us for one in meter.costs(updates=1, seconds=10.0)}
    assert found == {"after_epoch": pytest.approx(1e6), "periodic_callback": pytest.approx(2e6)}


READS = {
    "item": lambda x: x.item(),
    "float": lambda x: float(x),
    "if": lambda x: bool(x),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "mask of many": lambda x: x.expand(3)[x.expand(3) > 0],
    "unique": lambda x: torch.unique_consecutive(x),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_each_way_to_read_a_value_waits_once(meter, read):
    around, value = meter.around("after_update", "a"), torch.ones(())
    with counting(meter, torch.device("cpu")), around():
        read(value)
    (found,) = meter.costs(1, 1.0)
    assert found.waits == 1


def test_operators_that_change_or_view_a_tensor_make_none(meter):
    around, x, y = meter.around("after_update", "a"), torch.ones(4), torch.ones(4)
    with counting(meter, torch.device("cpu")), around():
        x.add_(y).view(2, 2).detach()
        torch._foreach_add_([x, y], 1.0)
        x * y
        torch._foreach_mul([x, y], 2.0)
    with around():
        pass
    (found,) = meter.costs(2, 1.0)
    assert (found.allocations, found.waits) == (3, 0)


def test_after_an_error_nothing_is_counted_any_more(meter):
    with pytest.raises(ZeroDivisionError), counting(meter, torch.device("cpu")):
        raise ZeroDivisionError
    assert not meter.is_counting
    assert torch.overrides._get_current_function_mode_stack() == []
