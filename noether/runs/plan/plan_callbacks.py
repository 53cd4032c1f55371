"""The calls of a run in advance: compiled hooks and intervals, evaluated before the first update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.checkpoint.saving import BestCheckpointCallback
from noether.core.callbacks.periodic import PeriodicCallback, PeriodicDataIteratorCallback
from noether.core.callbacks.tree import family
from noether.kernel.discovery import PERIODIC
from noether.kernel.dispatch import Dispatch
from noether.kernel.hookspecs import HOOKS, interval_of, is_when_due
from noether.kernel.participant import Implementation, Participant
from noether.kernel.progress import Intervals, UpdateCounter
from noether.runs.prepare import Run

Hook = Literal["update", "epoch"]
_ROUNDS: tuple[tuple[str, Hook], ...] = (("after_update", "update"), ("after_epoch", "epoch"))
_EVERY: dict[Hook, Intervals] = {"update": Intervals(every_n_updates=1), "epoch": Intervals(every_n_epochs=1)}
_IN_TRAINING = {
    "before_optimizer_step",
    "track_after_accumulation_step",
    "track_after_update_step",
    "after_update",
    "after_epoch",
}


@dataclass(frozen=True, slots=True)
class PlannedCallback:
    """The calls of a callback or run plugin in the rounds after updates.

    Attributes:
        id: Id of the callback.
        kind: Kind of the callback; `plugin` for a run plugin.
        hook: `after_update`, or `after_epoch`, which comes after it.
        interval: As in a spec: `every_n_epochs=1`.
        first: Update of the first call; None for never.
        every: Updates from one call to the next; None if that varies.
        times: Number of calls.
    """

    id: str
    kind: str
    hook: str
    interval: str
    first: int | None
    every: int | None
    times: int


@dataclass(frozen=True, slots=True)
class PlannedPass:
    """The passes of a callback over a data set.

    Attributes:
        id: Id of the callback.
        dataset: Key of the data set.
        samples: Samples of one pass.
        batches: Batches of one pass on this rank.
        times: Number of passes; None if its parent decides.
    """

    id: str
    dataset: str
    samples: int
    batches: int
    times: int | None


@dataclass(frozen=True, slots=True)
class OrderedCall:
    """One call of a hook.

    Attributes:
        hook: Name of the hook.
        id: Id of the callback or run plugin.
        kind: Its kind.
        origin: Its distribution and version; empty for project code.
        place: Reason for its place: `wrapper`, `first`, `component`, `plugin` or `last`; `child` of the callback
            `owner`, which passes the hook on.
        interval: Interval at which it is called, as in a spec; empty if it is called each time.
        owner: Id of the callback that calls it; empty for the run.
    """

    hook: str
    id: str
    kind: str
    origin: str
    place: str
    interval: str
    owner: str


def ordered_calls(run: Run) -> list[OrderedCall]:
    """Return all calls of all hooks as the run compiled them, hook by hook, in the order of the calls.

    An implementation that acts when its interval fires is called in `after_update` or `after_epoch`, not in both.
    """
    dispatch = run.trainer.dispatch
    assert dispatch is not None, "a rehearsal is prepared"
    left_out = {PERIODIC} | ({"at_eval"} if run.trainer.total_training_updates else _IN_TRAINING)
    return [
        _ordered(hook, implementation, owner, interval)
        for hook in HOOKS
        if hook not in left_out
        for implementation, owner in _called(dispatch, hook)
        if (interval := _interval_of_call(implementation, hook)) is not None
    ]


def _interval_of_call(implementation: Implementation, hook: str) -> str | None:
    """Return the interval of a call as in a spec, empty for each time; None if it is due in the other round only."""
    if implementation.next_due is None:
        return ""
    instance: Any = implementation.participant.instance
    is_plugin = implementation.participant.is_plugin
    own = interval_of(instance.periodic_callback) if is_plugin else getattr(instance, "intervals", None)
    if own is None or not own.verbose:
        return "when its owner asks"
    return _of_hook(own, dict(_ROUNDS)[hook]).verbose or None


def _ordered(hook: str, implementation: Implementation, owner: str, interval: str) -> OrderedCall:
    participant = implementation.participant
    origin = f"{participant.distribution} {participant.version}".strip()
    return OrderedCall(hook, participant.id, participant.kind, origin, _place(implementation, owner), interval, owner)


def _place(implementation: Implementation, owner: str) -> str:
    if owner:
        return "child"
    if implementation.wraps:
        return "wrapper"
    if implementation.tryfirst or implementation.trylast:
        return "first" if implementation.tryfirst else "last"
    return "plugin" if implementation.participant.is_plugin else "component"


def planned_callbacks(run: Run) -> list[PlannedCallback]:
    """Return the calls in the rounds after updates, in the order of one round."""
    counter = run.trainer.update_counter
    return [
        _planned(participant, name, hook, intervals, counter) for participant, name, hook, intervals in _schedule(run)
    ]


def saving_updates(run: Run) -> list[int]:
    """Return the updates after which checkpoints are committed, including the last one."""
    counter = run.trainer.update_counter
    if counter.is_finished:
        return []
    updates = {counter.end_update}
    for participant, _, _, intervals in _schedule(run):
        if getattr(participant.instance, "saves_checkpoints", False):
            updates.update(_firing(intervals, counter))
    return sorted(updates)


def naming_callbacks(run: Run) -> list[str]:
    """Return the ids of the callbacks that keep the checkpoints of their best values."""
    return [callback.id for callback in family(run.trainer.callbacks) if isinstance(callback, BestCheckpointCallback)]


def planned_passes(run: Run) -> list[PlannedPass]:
    """Return the evaluation passes, in the order of the callbacks."""
    trainer, counter = run.trainer, run.trainer.update_counter
    times: dict[str, int] = {}
    own = {callback.id for callback in trainer.callbacks}
    for participant, _, hook, intervals in _schedule(run):
        times[participant.id] = times.get(participant.id, 0) + _times(intervals, hook, counter)
    found = []
    for participant in run.trainer.participants:
        callback = participant.instance
        if not isinstance(callback, PeriodicDataIteratorCallback):
            continue
        config = callback.sampler_config
        called = 0 if participant.id in own else None
        found.append(
            PlannedPass(
                id=participant.id,
                dataset=callback.dataset_key or run.data.keys()[0],
                samples=len(config.samples_on(0, 1, trainer.batch_size)),
                batches=config.pass_length(trainer.batch_size),
                times=times.get(participant.id, called) if trainer.total_training_updates else 1,
            )
        )
    return found


def other_hooks(run: Run) -> dict[str, list[str]]:
    """Return the ids of the participants by hook, for the hooks outside of rounds."""
    dispatch = run.trainer.dispatch
    assert dispatch is not None, "a rehearsal is prepared"
    rounds: tuple[str, ...] = ("after_update", "after_epoch", "periodic_callback", "configure_spec")
    if run.trainer.total_training_updates:
        rounds = (*rounds, "at_eval")
    orders = {hook: dispatch.order(hook) for hook in HOOKS if hook not in rounds}
    return {hook: order for hook, order in orders.items() if order}


def _schedule(run: Run) -> Iterator[tuple[Participant, str, Hook, Intervals]]:
    """Yield participant, hook and interval of each call in a round, in the order of the calls."""
    dispatch = run.trainer.dispatch
    assert dispatch is not None, "a rehearsal is prepared"
    for name, hook in _ROUNDS:
        called = (found.participant for found, _ in _called(dispatch, name, scheduled_only=True))
        for participant in {one.id: one for one in called}.values():
            for intervals in _intervals(participant, name, hook):
                yield participant, name, hook, intervals


def _called(
    dispatch: Dispatch, name: str, owner: str = "", *, scheduled_only: bool = False
) -> Iterator[tuple[Implementation, str]]:
    """Yield the implementations of a hook, each followed by those of the children that it passes the hook on to.

    Args:
        dispatch: The compiled hooks of the run, or of a group of children.
        name: The hook.
        owner: Id of the callback that owns the group; empty for the run.
        scheduled_only: Leave out children that have no intervals of their own.

    Yields:
        The implementation, and the id of the callback that calls it.
    """
    for implementation in dispatch.implementations(name):
        yield implementation, owner
        callback, identifier = implementation.participant.instance, implementation.participant.id
        if not isinstance(callback, CallbackBase) or (scheduled_only and not _children_have_intervals(callback)):
            continue
        for group in callback.nested():
            yield from _called(group.dispatch, name, identifier, scheduled_only=scheduled_only)


def _children_have_intervals(callback: CallbackBase) -> bool:
    return isinstance(callback, PeriodicCallback) and callback.callback_config.children_need_interval


def _intervals(participant: Participant, name: str, hook: Hook) -> Iterator[Intervals]:
    """Yield the intervals at which a hook calls a participant; without one it is called every time."""
    instance: Any = participant.instance
    if participant.is_plugin:
        if hasattr(instance, name):
            yield _EVERY[hook]
        own = interval_of(getattr(instance, "periodic_callback", None))
    elif is_when_due(getattr(instance, name)):
        own = instance.intervals
    else:
        own = _EVERY[hook]
    if own is not None and (of_hook := _of_hook(own, hook)).verbose:
        yield of_hook


def _of_hook(intervals: Intervals, hook: Hook) -> Intervals:
    if hook == "epoch":
        return Intervals(every_n_epochs=intervals.every_n_epochs)
    return Intervals(every_n_updates=intervals.every_n_updates, every_n_samples=intervals.every_n_samples)


def _planned(
    participant: Participant, name: str, hook: Hook, intervals: Intervals, counter: UpdateCounter
) -> PlannedCallback:
    sizes = counter.updates_per_epoch, counter.effective_batch_size
    try:
        every = intervals.updates_per_interval(*sizes)
    except ValueError:
        every = None
    return PlannedCallback(
        id=participant.id,
        kind="plugin" if participant.is_plugin else participant.kind,
        hook=name,
        interval=intervals.verbose,
        first=next(_firing(intervals, counter), None),
        every=every or None,
        times=_times(intervals, hook, counter),
    )


def _times(intervals: Intervals, hook: Hook, counter: UpdateCounter) -> int:
    span = range(counter.update + 1, counter.end_update + 1)
    return intervals.firings(hook, span, counter.updates_per_epoch, counter.effective_batch_size)


def _firing(intervals: Intervals, counter: UpdateCounter) -> Iterator[int]:
    """Yield the updates after which an interval fires, to the end of the run."""
    sizes = counter.updates_per_epoch, counter.effective_batch_size
    update = intervals.next_due_update(counter.update, *sizes)
    while update <= counter.end_update:
        yield update
        update = intervals.next_due_update(update, *sizes)
