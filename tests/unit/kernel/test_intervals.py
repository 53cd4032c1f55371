"""Intervals, against a simulation that counts every single sample."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.kernel.progress import NEVER, Intervals, TrainingIteration, UpdateCounter, fires

numbers = st.integers(1, 12)
maybe = st.none() | numbers
intervals = st.builds(Intervals, every_n_epochs=maybe, every_n_updates=maybe, every_n_samples=maybe)


def simulated(found: Intervals, updates: int, updates_per_epoch: int, batch: int) -> list[set[str]]:
    """Return the intervals that fire after each update, by counting single samples."""
    fired, seen = [], 0
    for update in range(1, updates + 1):
        samples = range(seen + 1, seen + batch + 1)
        seen += batch
        epoch, rest = divmod(update, updates_per_epoch)
        units = set()
        if found.every_n_samples and any(sample % found.every_n_samples == 0 for sample in samples):
            units.add("sample")
        if found.every_n_updates and update % found.every_n_updates == 0:
            units.add("update")
        if found.every_n_epochs and not rest and epoch % found.every_n_epochs == 0:
            units.add("epoch")
        fired.append(units)
    return fired


@given(intervals, numbers, numbers, st.integers(1, 60))
def test_intervals_fire_where_counting_samples_says(
    found: Intervals, updates_per_epoch: int, batch: int, updates: int
) -> None:
    counter = UpdateCounter(TrainingIteration(0, 0, 0), TrainingIteration(update=updates), updates_per_epoch, batch)
    for expected in simulated(found, updates, updates_per_epoch, batch):
        counter.update += 1
        counter.sample += batch
        counter.epoch += counter.is_full_epoch
        after_update, after_epoch = fires(found, counter, "update"), fires(found, counter, "epoch")
        # One call an update, even where both units fire; the epoch's is a call of its own.
        assert after_update == ("update" if "update" in expected else "sample" if "sample" in expected else None)
        assert after_epoch == ("epoch" if "epoch" in expected else None)


@given(intervals, numbers, numbers, st.integers(0, 40))
def test_next_due_update_is_the_first_at_which_something_fires(
    found: Intervals, updates_per_epoch: int, batch: int, update: int
) -> None:
    horizon = update + 12 * 12 + 1  # the longest interval is twelve epochs of twelve updates
    fired = simulated(found, horizon, updates_per_epoch, batch)
    later = [number for number, units in enumerate(fired, start=1) if units and number > update]
    assert found.next_due_update(update, updates_per_epoch, batch) == (later[0] if later else NEVER)


@given(intervals, numbers)
def test_nothing_fires_before_the_first_update(found: Intervals, batch: int) -> None:
    assert found.fires_after_update(0, batch) is None
    assert found.fires_after_epoch(0) is None


@given(numbers, numbers, numbers)
def test_updates_per_interval_is_the_distance_between_two_firings(n: int, updates_per_epoch: int, batch: int) -> None:
    for found in (Intervals(every_n_epochs=n), Intervals(every_n_updates=n), Intervals(every_n_samples=n * batch)):
        first = found.next_due_update(0, updates_per_epoch, batch)
        second = found.next_due_update(first, updates_per_epoch, batch)
        assert second - first == first == found.updates_per_interval(updates_per_epoch, batch)


@given(numbers, st.integers(2, 9))
def test_uneven_sample_interval_has_no_number_of_updates(n: int, batch: int) -> None:
    with pytest.raises(ValueError) as caught:
        Intervals(every_n_samples=n * batch + 1).updates_per_interval(5, batch)
    assert f"every_n_samples: found {n * batch + 1}" in str(caught.value)


def test_without_an_interval_there_is_no_distance() -> None:
    with pytest.raises(ValueError) as caught:
        Intervals().updates_per_interval(5, 4)
    assert "every_n_epochs" in str(caught.value)


@pytest.mark.parametrize(
    ("found", "verbose"),
    [
        (Intervals(every_n_epochs=1), "every_n_epochs=1"),
        (Intervals(2, 3, 4), "every_n_epochs=2,every_n_updates=3,every_n_samples=4"),
        (Intervals(), ""),
    ],
)
def test_intervals_are_written_as_in_specs(found: Intervals, verbose: str) -> None:
    assert found.verbose == verbose


@given(
    intervals=st.builds(Intervals, *[st.none() | st.integers(1, 40)] * 3),
    start=st.integers(0, 50),
    updates=st.integers(0, 80),
    updates_per_epoch=st.integers(1, 12),
    effective_batch_size=st.integers(1, 20),
)
def test_the_number_of_firings_is_what_stepping_through_a_run_counts(
    intervals, start, updates, updates_per_epoch, effective_batch_size
):
    span = range(start + 1, start + updates + 1)
    after_update = [u for u in span if intervals.fires_after_update(u, effective_batch_size)]
    ends = [u // updates_per_epoch for u in span if u % updates_per_epoch == 0]
    after_epoch = [epoch for epoch in ends if intervals.fires_after_epoch(epoch)]
    sizes = updates_per_epoch, effective_batch_size
    assert intervals.firings("update", span, *sizes) == len(after_update)
    assert intervals.firings("epoch", span, *sizes) == len(after_epoch)
