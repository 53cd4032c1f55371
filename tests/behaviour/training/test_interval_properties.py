"""Random schedules in real runs, against a simulation that sees one sample after the other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.kernel.entries import Component
from noether.testing import make_data, make_model, make_trainer

Call = tuple[str, int, int, int]
"""The interval that fired, and epochs, updates and samples at that point."""


class Recorder(PeriodicCallback):
    """Records its calls, and at each its prediction of the next one."""

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.calls: list[Call] = []
        self.announced: list[tuple[int, int]] = []

    def periodic_callback(self, *, interval_type: Any, update_counter: Any, **_: Any) -> None:
        at = update_counter
        self.calls.append((interval_type, at.epoch, at.update, at.sample))
        self.announced.append((self.next_due_update(at), self.updates_till_next_invocation(at)))


@dataclass(frozen=True)
class Schedule:
    """A run and the intervals of one callback in it."""

    samples: int
    effective_batch_size: int
    max_batch_size: int | None
    limit: tuple[str, int]
    intervals: dict[str, int]

    @property
    def updates_per_epoch(self) -> int:
        return self.samples // self.effective_batch_size

    def is_over(self, updates: int) -> bool:
        unit, limit = self.limit
        done = {
            "max_epochs": updates // self.updates_per_epoch,
            "max_updates": updates,
            "max_samples": updates * self.effective_batch_size,
        }
        return done[unit] >= limit

    def calls_after(self, update: int) -> list[Call]:
        """Expected calls after an update: one for its samples, one for its epoch."""
        batch = self.effective_batch_size
        epoch, rest = divmod(update, self.updates_per_epoch)
        fired = [unit for unit, n in self.intervals.items() if unit == "every_n_updates" and update % n == 0]
        seen = range((update - 1) * batch + 1, update * batch + 1)
        n = self.intervals.get("every_n_samples")
        if not fired and n and any(sample % n == 0 for sample in seen):
            fired.append("every_n_samples")
        if not rest and epoch % self.intervals.get("every_n_epochs", epoch + 1) == 0:
            fired.append("every_n_epochs")
        return [(unit.removeprefix("every_n_").removesuffix("s"), epoch, update, update * batch) for unit in fired]

    def calls(self) -> list[Call]:
        found, update = [], 0
        while not self.is_over(update):
            update += 1
            found += self.calls_after(update)
        return found

    def next_due(self, update: int) -> int:
        return next(later for later in range(update + 1, update + 1000) if self.calls_after(later))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    batch = draw(st.integers(1, 6))
    samples = draw(st.integers(batch, 20))
    per_epoch = samples // batch
    bounds = {"max_epochs": max(1, 24 // per_epoch), "max_updates": 24, "max_samples": 24 * batch}
    unit = draw(st.sampled_from(sorted(bounds)))
    units = st.sampled_from(["every_n_epochs", "every_n_updates", "every_n_samples"])
    return Schedule(
        samples,
        batch,
        draw(st.none() | st.integers(1, 6)),
        (unit, draw(st.integers(1, bounds[unit]))),
        draw(st.dictionaries(units, st.integers(1, 15), min_size=1)),
    )


def run(schedule: Schedule, folder: Any) -> Recorder:
    config = CallBackBaseConfig(kind="recorder", **schedule.intervals)
    config._component = Component("callback", "recorder", Recorder, None)
    unit, limit = schedule.limit
    trainer = make_trainer(
        folder,
        data=make_data(samples=schedule.samples),
        effective_batch_size=schedule.effective_batch_size,
        max_batch_size=schedule.max_batch_size,
        callbacks=[config],
        **{unit: limit},
    )
    trainer.train(make_model())
    (recorder,) = trainer.callbacks
    assert isinstance(recorder, Recorder)
    return recorder


@settings(max_examples=25, deadline=None)
@given(schedules())
def test_a_callback_is_called_exactly_where_counting_samples_says(
    tmp_path_factory: pytest.TempPathFactory, schedule: Schedule
) -> None:
    recorder = run(schedule, tmp_path_factory.mktemp("run"))
    assert recorder.calls == schedule.calls()
    for (_, _, update, _), announced in zip(recorder.calls, recorder.announced, strict=True):
        due = schedule.next_due(update)
        assert announced == (due, due - update)


@settings(max_examples=12, deadline=None)
@given(schedules(), st.sampled_from(["every_n_epochs", "every_n_updates", "every_n_samples"]), st.integers(1, 6))
def test_updates_per_interval_are_the_distance_of_two_calls(
    tmp_path_factory: pytest.TempPathFactory, schedule: Schedule, unit: str, n: int
) -> None:
    if unit == "every_n_samples":
        n *= schedule.effective_batch_size
    single = Schedule(
        schedule.samples, schedule.effective_batch_size, schedule.max_batch_size, schedule.limit, {unit: n}
    )
    recorder = run(single, tmp_path_factory.mktemp("run"))
    distance = recorder.updates_per_interval(recorder.trainer.update_counter)
    updates = [0, *(update for _, _, update, _ in recorder.calls)]
    assert {later - earlier for earlier, later in pairwise(updates)} <= {distance}
    assert distance == single.next_due(0)
