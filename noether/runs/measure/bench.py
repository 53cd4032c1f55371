"""`noether bench`: the cost of an update beside a bare loop in the same process, and that of each callback."""

from __future__ import annotations

import cProfile
import gc
import os
import platform
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from math import ceil
from statistics import median
from typing import Any

import torch

from noether.core.callbacks.periodic import PeriodicCallback
from noether.errors import UsageError
from noether.kernel.compile import HookWatch, watch_hooks
from noether.kernel.hookspecs import hookimpl, is_when_due
from noether.kernel.participant import Participant
from noether.kernel.progress import NEVER, UpdateCounter
from noether.runs.measure.bare_loop import BareLoop
from noether.runs.measure.hook_costs import CallbackCost, Meter, counting, is_eager, now
from noether.runs.measure.lr_find import require_new, train
from noether.runs.prepare import Run, rehearsal
from noether.spec.load import LoadedSpec

TRIES = 3
"""Measurements of a ratio, of which the lowest counts: other users of the machine only add to a time."""
_OWN_ID = "noether-bench"
_UPDATES, _FEWEST = 2000, 10  # updates
_SECONDS = 10.0  # of a measurement whose number of updates is not given
_SLICE, _LONGEST = 0.02, 200  # seconds; updates
_GROUPS = 5  # of slices, whose ratios tell the noise


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a run's updates and of the bare loop.

    Attributes:
        update_us: Microseconds of an update of the run, in the quickest slice.
        bare_us: The same of the bare loop.
        noise: Four median absolute deviations of the ratio, as a share of it; None if there were too few slices.
        updates: Updates that were trained.
        slices: Slices that were timed.
        slice_updates: Updates of a slice.
        python_calls: Function calls of an update, of the run and of the bare loop.
        difference: Where weights differ in the end, or why they were not compared; None if they are equal bit by bit.
    """

    update_us: float
    bare_us: float
    noise: float | None
    updates: int
    slices: int
    slice_updates: int
    python_calls: tuple[float, float]
    difference: str | None

    @property
    def ratio(self) -> float:
        """Time of an update of the run over that of the bare loop."""
        return self.update_us / self.bare_us


@dataclass(frozen=True, slots=True)
class Bench:
    """Result of a measurement.

    Attributes:
        name: Name of the spec.
        device: Device of the run.
        end_update: Updates of the whole run.
        timing: The lowest of the measurements of its updates.
        callbacks: Cost of each hook, the dearest callback first.
        mean_us: Microseconds of an update in which those were measured, with evaluation and boundaries.
        not_called: First update at which they would act, by id of callbacks whose interval did not fire.
    """

    name: str
    device: str
    end_update: int
    timing: Timing
    callbacks: Sequence[CallbackCost]
    mean_us: float
    not_called: Mapping[str, int | None]

    def record(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        timing = self.timing
        return {
            "name": self.name,
            "ratio": timing.ratio,
            "bare_us": timing.bare_us,
            "update_us": timing.update_us,
            "noise": timing.noise,
            "updates": timing.updates,
            "slices": timing.slices,
            "slice_updates": timing.slice_updates,
            "end_update": self.end_update,
            "weights_differ": timing.difference,
            "python_calls": dict(zip(("update", "bare"), timing.python_calls, strict=True)),
            "mean_us": self.mean_us,
            "callbacks": [asdict(one) for one in self.callbacks],
            "not_called": dict(self.not_called),
            "machine": machine_facts(self.device),
        }


def bench(
    loaded: LoadedSpec,
    plugins: Sequence[str] = (),
    *,
    updates: int | None = None,
    is_enough: Callable[[Timing], bool] = lambda timing: True,
) -> Bench:
    """Measure a spec: two short trainings in a temporary folder, without trackers.

    Args:
        loaded: A valid spec.
        plugins: Run plugins beside those that the spec uses.
        updates: Updates to train; by default as many as fit into some seconds, at most 2,000.
        is_enough: Returns False for a timing that should be tried again.

    Raises:
        UsageError: if the spec is wrong, or trains too few updates, or stops by itself too early.
        TrainingError: if training fails.
    """
    timings: list[Timing] = []
    while not timings or (len(timings) < TRIES and not is_enough(min(timings, key=lambda one: one.ratio))):
        slices = _Slices(updates)
        _train(loaded, plugins, slices)
        timings.append(slices.timing())
    costs = _Costs(updates)
    with watch_hooks(HookWatch(around=costs.meter.around)):
        run = _train(loaded, plugins, costs)
    found = [one for one in costs.found() if one.name != _OWN_ID]
    return Bench(
        name=run.spec.name,
        device=run.spec.device,
        end_update=run.trainer.update_counter.end_update,
        timing=min(timings, key=lambda one: one.ratio),
        callbacks=found,
        mean_us=1e6 * costs.seconds / costs.timed,
        not_called=costs.not_called(run),
    )


def _train(loaded: LoadedSpec, plugins: Sequence[str], phases: _Phases) -> Run:
    extra = Participant(_OWN_ID, _OWN_ID, phases, is_plugin=True)
    with redirect_stdout(StringIO()), rehearsal(loaded, plugins, extras=[extra]) as run:
        phases.begin(run)
        try:
            train(run)
        finally:
            phases.end()
    return run


class _Phases(ABC):
    """A run plugin that goes through phases of some updates each; it costs one call an update.

    Args:
        updates: Updates to train; None for a limit in seconds.
    """

    def __init__(self, updates: int | None) -> None:
        self._wanted = updates
        self._until = NEVER
        self._running: Any = None

    def begin(self, run: Run) -> None:
        """Begin with the first phase.

        Raises:
            UsageError: if the run has too few updates, or continues another one.
        """
        counter = run.trainer.update_counter
        left = counter.end_update - counter.update
        if left < _FEWEST:
            raise UsageError(
                f"too few updates to measure: found {left}, expected at least {_FEWEST}",
                hint="make the run longer, for example with -s trainer.max_updates=1000",
            )
        require_new(run)
        self.run, self.device = run, run.trainer.device
        self.total = min(left, max(_FEWEST, self._wanted or _UPDATES))
        self.warm_up = max(1, min(20, self.total // 10))
        first_due = run.trainer.dispatch.next_due_update(counter) if run.trainer.dispatch else NEVER
        self.period = first_due - counter.update
        gc.collect()
        gc.freeze()  # else a callback that happens to start a collection would pay for all objects of the process
        self._running = self.phases()
        self._until = counter.update + next(self._running)

    @hookimpl
    def track_after_update_step(self, update_counter: UpdateCounter) -> None:
        """Go on to the next phase at the end of one."""
        if update_counter.update >= self._until:
            self._go_on(update_counter.update)

    def _go_on(self, update: int) -> None:
        updates = next(self._running, None)
        if updates is None:
            self.run.trainer.request_stop("the measurement is done")
        self._until = NEVER if updates is None else update + updates

    def end(self) -> None:
        """Leave the phase under way, also after an error."""
        if self._running is not None:
            self._running.close()
            gc.unfreeze()

    def too_short(self) -> UsageError:
        """Return the error for a training that has ended by itself before anything was measured."""
        update = self.run.trainer.update_counter.update
        return UsageError(
            f"nothing was measured: training ended by itself at update {update}",
            hint="remove what stops it, for example an early stopper, or let it stop later",
        )

    def whole_periods(self, updates: int) -> int:
        """Return a number of updates in which as many intervals fire as in any other, if that is not much longer."""
        return ceil(updates / self.period) * self.period if self.period <= 8 * updates else updates

    def is_long_enough(self, updates: int, seconds: float) -> bool:
        """Return True if so many updates, or seconds if no number was given, are enough."""
        return updates >= self.total or (self._wanted is None and seconds >= _SECONDS)

    @abstractmethod
    def phases(self) -> Iterator[int]:
        """Yield the number of updates of each phase when it begins."""


class _Slices(_Phases):
    """Lets the bare loop do the same updates after each slice, and times both."""

    def __init__(self, updates: int | None) -> None:
        super().__init__(updates)
        self._ours: list[float] = []
        self._theirs: list[float] = []
        self._done = self._length = 0
        self._difference: str | None = "not compared: training ended before the measurement"

    def timing(self) -> Timing:
        """Return the result; that of the slices before, if training has ended by itself."""
        if not self._ours:
            raise self.too_short()
        length = self._length
        return Timing(
            update_us=1e6 * min(self._ours) / length,
            bare_us=1e6 * min(self._theirs) / length,
            noise=_noise(self._ours, self._theirs),
            updates=self._done,
            slices=len(self._ours),
            slice_updates=length,
            python_calls=self._python_calls,
            difference=self._difference,
        )

    def phases(self) -> Iterator[int]:
        bare = BareLoop(self.run)
        yield self.warm_up
        bare.train(self.warm_up)
        started = now(self.device)
        yield self.warm_up
        each = (now(self.device) - started) / self.warm_up
        bare.train(self.warm_up)
        counted = min(self.whole_periods(self.warm_up), self.total // 4)
        calls = cProfile.Profile()
        calls.enable()
        yield counted
        calls.disable()
        bare_calls = cProfile.Profile()
        bare.train(counted, around=bare_calls.runcall)
        self._python_calls = _calls(calls) / counted - 1, _calls(bare_calls) / counted  # one call is the plugin's own
        self._done = 2 * self.warm_up + counted
        length = self.whole_periods(max(1, min(_LONGEST, round(_SLICE / each))))
        most = max(1, (self.total - self._done) // (2 * _GROUPS))  # enough slices to tell the noise
        self._length = length = min(length, most - most % self.period if self.period <= most else most)
        while self._done + length <= self.total and not self.is_long_enough(self._done, self._seconds):
            started = now(self.device)
            yield length
            ours = now(self.device) - started
            self._theirs.append(bare.train(length))
            self._ours.append(ours)
            self._done += length
        self._difference = bare.difference(self.run.model)

    @property
    def _seconds(self) -> float:
        return sum(self._ours) + sum(self._theirs)


def _noise(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    if len(ours) < 2 * _GROUPS:
        return None
    ratios = [min(ours[group::_GROUPS]) / min(theirs[group::_GROUPS]) for group in range(_GROUPS)]
    middle = median(ratios)
    return 4 * median(abs(ratio - middle) for ratio in ratios) / middle


def _calls(profile: cProfile.Profile) -> int:
    own = ("disable", "runcall", "next")
    return sum(entry.callcount for entry in profile.getstats() if not str(entry.code).endswith(own))


class _Costs(_Phases):
    """Counts what the hooks of some updates do, then times those of the others.

    Attributes:
        meter: Costs of the hooks, compiled into them.
        timed: Updates that were timed.
        seconds: Their seconds.
    """

    def __init__(self, updates: int | None) -> None:
        super().__init__(updates)
        self.meter = Meter()
        self.timed, self.seconds = 0, 0.0

    def phases(self) -> Iterator[int]:
        yield self.warm_up
        done, started = self.warm_up, now(self.device)
        counts = counting(self.meter, self.device) if is_eager(self.run.trainer) else nullcontext()
        with counts:
            count = min(self.whole_periods(1), self.total // 4)
            yield count
            done += count
            while self.not_called(self.run) and done < self.total // 2 and now(self.device) - started < _SECONDS / 4:
                yield count
                done += count
        self.meter.is_timing, started = True, now(self.device)
        while not self.is_long_enough(done + self.timed, self.seconds):
            count = min(self.whole_periods(self.warm_up), self.total - done - self.timed)
            yield count
            self.timed += count
            self.seconds = now(self.device) - started
        self.meter.is_timing = False

    def found(self) -> list[CallbackCost]:
        """Return the costs of all hooks."""
        if not self.timed:
            raise self.too_short()
        rates = {one.id: rate for one in self.run.trainer.participants if (rate := self._rate(one.instance))}
        return self.meter.costs(self.timed, self.seconds, rates)

    def _rate(self, instance: Any) -> float | None:
        """Return the calls of a `periodic_callback` for each update of the whole run; None if they are not known."""
        if not isinstance(instance, PeriodicCallback):
            return None
        if not (is_when_due(instance.after_update) and is_when_due(instance.after_epoch)):
            return None  # it calls itself
        counter = self.run.trainer.update_counter
        span, sizes = range(1, counter.end_update + 1), (counter.updates_per_epoch, counter.effective_batch_size)
        times = sum(instance.intervals.firings(hook, span, *sizes) for hook in ("update", "epoch"))
        return times / counter.end_update

    def not_called(self, run: Run) -> dict[str, int | None]:
        """Return the callbacks whose interval has not fired, with the update at which it first does."""
        assert run.trainer.dispatch is not None, "hooks are compiled"
        missing = set(run.trainer.dispatch.order("periodic_callback")) - self.meter.called("periodic_callback")
        found = {one.id: one.instance for one in run.trainer.participants if one.id in missing}
        counter = run.trainer.update_counter
        return {
            name: instance.next_due_update(counter) if hasattr(instance, "next_due_update") else None
            for name, instance in found.items()
        }


def machine_facts(device: str) -> dict[str, Any]:
    """Return what times depend on: processor, cores, threads, versions."""
    facts: dict[str, Any] = {
        "system": f"{sys.platform} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }
    return facts
