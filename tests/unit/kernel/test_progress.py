"""Counters, points in training and elapsed seconds."""

from __future__ import annotations

from time import perf_counter, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.kernel.progress import Stopwatch, TrainingIteration, UpdateCounter

sizes = st.integers(1, 9)
limits = st.one_of(
    st.builds(TrainingIteration, epoch=st.integers(0, 5)),
    st.builds(TrainingIteration, update=st.integers(0, 40)),
    st.builds(TrainingIteration, sample=st.integers(0, 200)),
)
START = TrainingIteration(0, 0, 0)


def count_to_the_end(counter: UpdateCounter) -> None:
    while not counter.is_finished:
        counter.update += 1
        counter.sample += counter.effective_batch_size
        if counter.is_full_epoch:
            counter.epoch += 1


def is_reached(limit: TrainingIteration, counter: UpdateCounter) -> bool:
    pairs = (
        (limit.epoch, counter.update / counter.updates_per_epoch),
        (limit.update, counter.update),
        (limit.sample, counter.sample),
    )
    return any(end is not None and now >= end for end, now in pairs)


@given(limits, sizes, sizes)
def test_run_ends_with_the_first_update_that_reaches_the_limit(
    limit: TrainingIteration, updates_per_epoch: int, batch: int
) -> None:
    counter = UpdateCounter(START, limit, updates_per_epoch, batch)
    while not is_reached(limit, counter):
        assert not counter.is_finished
        counter.update += 1
        counter.sample += batch
    assert counter.is_finished
    assert counter.update == counter.end_update


@given(limits, sizes, sizes)
def test_units_agree_at_the_end(limit: TrainingIteration, updates_per_epoch: int, batch: int) -> None:
    counter = UpdateCounter(START, limit, updates_per_epoch, batch)
    count_to_the_end(counter)
    assert counter.epoch == counter.update // updates_per_epoch
    assert counter.sample == counter.update * batch
    assert counter.epoch_as_float == counter.update / updates_per_epoch


def test_counting_goes_on_from_where_it_starts() -> None:
    counter = UpdateCounter(TrainingIteration(2, 10, 40), TrainingIteration(epoch=3), 5, 4)
    count_to_the_end(counter)
    assert counter.cur_iteration == TrainingIteration(3, 15, 60)


def test_current_point_does_not_move() -> None:
    counter = UpdateCounter(START, TrainingIteration(update=3), 5, 4)
    before = counter.cur_iteration
    counter.update += 1
    assert before == START


def test_before_the_first_update_no_epoch_is_full() -> None:
    assert not UpdateCounter(START, TrainingIteration(update=3), 5, 4).is_full_epoch


def test_text_names_the_point_and_the_end() -> None:
    assert repr(UpdateCounter(START, TrainingIteration(update=3), 5, 4)) == "UpdateCounter(E0_U0_S0 of 3 updates)"


def test_counter_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        UpdateCounter(START, TrainingIteration(), 5, 4)
    assert "UpdateCounter" in str(caught.value)


counts = st.integers(0, 10**12)


@given(counts, counts, counts)
def test_text_form_reads_back_to_the_same_point(epoch: int, update: int, sample: int) -> None:
    point = TrainingIteration(epoch, update, sample)
    assert str(point) == f"E{epoch}_U{update}_S{sample}"
    assert TrainingIteration.parse(str(point)) == point


@pytest.mark.parametrize("text", ["", "E1_U2", "E1_U2_S3 ", "latest", "E1_U-2_S3", "ENone_U3_SNone", "e1_u2_s3"])
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        TrainingIteration.parse(text)
    assert "E1_U50_S3200" in str(caught.value)


def test_stopwatch_measures_no_more_than_the_time_around_it() -> None:
    began = perf_counter()
    with Stopwatch() as watch:
        sleep(0.002)
    around = perf_counter() - began
    assert 0.002 <= watch.elapsed_seconds <= around


def test_time_between_stop_and_start_does_not_count() -> None:
    watch = Stopwatch()
    watch.start().stop()
    first = watch.elapsed_seconds
    sleep(0.01)
    second = watch.start().stop()
    assert first <= second < first + 0.01


def test_stop_returns_the_sum_of_all_rounds() -> None:
    watch = Stopwatch(elapsed_seconds=5.0)
    assert watch.start().stop() == watch.elapsed_seconds >= 5.0


def test_stopwatch_stops_when_the_block_raises() -> None:
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch:
        1 / 0  # noqa: B018
    assert watch.elapsed_seconds > 0
