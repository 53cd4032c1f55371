"""Dispatch: the compiled hooks of a run, or of a group of nested callbacks, and the one way to compile them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from noether.errors import PluginError
from noether.kernel.compile import HookCall, HookWatch, Registration, active_watch
from noether.kernel.discovery import Discovery
from noether.kernel.entries import way_out
from noether.kernel.hookspecs import HOOKS
from noether.kernel.participant import Implementation, NextDue, OnStop, Participant, call_order
from noether.kernel.progress import NEVER, UpdateCounter

_MANY = "several hook implementations cannot work:"


class Dispatch:
    """Compiled hooks, one attribute for each; None if a hook has no implementation.

    `after_update` and `after_epoch` call all implementations, for rounds in which an interval fires (see
    `next_due_update`); `after_update_always` and `after_epoch_always` leave out those that would do nothing
    in other rounds. `periodic_callback` has no attribute: its owners call it.

    Args:
        registration: All implementations, registered in order.
    """

    __slots__ = (
        "_next_due",
        "_order",
        "after_epoch",
        "after_epoch_always",
        "after_training",
        "after_update",
        "after_update_always",
        "at_eval",
        "before_optimizer_step",
        "before_training",
        "checkpoint_committed",
        "configure_spec",
        "run_finished",
        "run_started",
        "track_after_accumulation_step",
        "track_after_update_step",
    )

    def __init__(self, registration: Registration) -> None:
        call = registration.compiled
        self.configure_spec: HookCall | None = call("configure_spec")
        self.run_started: HookCall | None = call("run_started")
        self.before_training: HookCall | None = call("before_training")
        self.before_optimizer_step: HookCall | None = call("before_optimizer_step")
        self.track_after_accumulation_step: HookCall | None = call("track_after_accumulation_step")
        self.track_after_update_step: HookCall | None = call("track_after_update_step")
        self.after_update: HookCall | None = call("after_update")
        self.after_update_always: HookCall | None = call("after_update", always_only=True)
        self.after_epoch: HookCall | None = call("after_epoch")
        self.after_epoch_always: HookCall | None = call("after_epoch", always_only=True)
        self.at_eval: HookCall | None = call("at_eval")
        self.checkpoint_committed: HookCall | None = call("checkpoint_committed")
        self.after_training: HookCall | None = call("after_training")
        self.run_finished: HookCall | None = call("run_finished")
        self._order = {hook: registration.in_call_order(hook) for hook in HOOKS}
        self._next_due = _schedules(self._order)

    def order(self, hook: str) -> list[str]:
        """Return the ids of the participants that implement a hook, as they are called; wrappers come first."""
        return [participant.id for participant in self.participants(hook)]

    def participants(self, hook: str) -> list[Participant]:
        """Return the participants that implement a hook, as they are called; wrappers come first."""
        return [implementation.participant for implementation in self._order[hook]]

    def implementations(self, hook: str) -> list[Implementation]:
        """Return the implementations of a hook, as they are called; wrappers come first."""
        return self._order[hook]

    def next_due_update(self, update_counter: UpdateCounter) -> int:
        """Return the first update after the current one at which any interval fires; `NEVER` without one.

        The loop asks again when it has reached that update: the rounds in between cost one comparison.
        """
        first = NEVER
        for next_due in self._next_due:  # plain steps: a generator would be two calls for each, at every boundary
            due = next_due(update_counter)
            if due is not None and due < first:
                first = due
        return first

    def digest(self) -> str:
        """Return a hash of the order of calls, with kinds and versions; equal on all ranks of a sound run."""
        table = {
            hook: [(p.id, p.kind, p.distribution, p.version) for p in self.participants(hook)] for hook in self._order
        }
        return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def compile_dispatch(
    participants: Sequence[Participant], *, on_stop: OnStop | None = None, watch: HookWatch | None = None
) -> Dispatch:
    """Check and compile the hooks of participants: those of a run, of its run plugins, or of nested callbacks.

    If an implementation raises `EarlyStopIteration`, the others of its hook are called nevertheless.

    Args:
        participants: Components in the order of the spec, and run plugins in the order of `use`.
        on_stop: Takes the first reason to end training at the end of a hook, with its source. Without it, the hook
            raises the `EarlyStopIteration` then.
        watch: Measurements to take; by default those that `watch_hooks` asks for. Without any, no clock is read.

    Raises:
        PluginError: if two participants share an id, a hook has no such argument, a method is named almost like a
            hook, or an implementation cannot work; all problems in one error.
    """
    watch = watch or active_watch()
    discoveries = [Discovery(participant, watch) for participant in participants]
    require_working(discoveries, _shared_ids(participants))
    implementations = [found for discovery in discoveries for found in discovery.implementations]
    return Dispatch(Registration(sorted(implementations, key=call_order), on_stop=on_stop, watch=watch))


def require_working(discoveries: Iterable[Discovery], problems: Sequence[str] = ()) -> None:
    """Raise the problems of all participants together, after those that are given.

    Raises:
        PluginError: if there are problems.
    """
    broken = [found for found in discoveries if found.problems]
    problems = [*problems, *(problem for found in broken for problem in found.problems)]
    if problems:
        remedies = (way_out(found.participant.distribution) for found in broken)
        text = problems[0] if len(problems) == 1 else "\n  - ".join([_MANY, *problems])
        raise PluginError(text, hint=next(filter(None, remedies), None))


def _shared_ids(participants: Sequence[Participant]) -> list[str]:
    names: dict[str, list[str]] = {}
    for participant in participants:
        names.setdefault(participant.id, []).append(str(participant))
    return [f"{' and '.join(same)} share one id; set `id` in one of them" for same in names.values() if len(same) > 1]


def _schedules(order: dict[str, list[Implementation]]) -> tuple[NextDue, ...]:
    """Return the `next_due_update` of each participant that acts only when its interval fires."""
    found = [implementation for hook in order for implementation in order[hook]]
    return tuple({one.participant: one.next_due for one in found if one.next_due is not None}.values())
