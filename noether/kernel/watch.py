"""Measurements of hook calls: timers, and the trace that `noether run --trace-hooks` prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any

Timers = MutableMapping[tuple[str, str], list[float]]
"""Number of calls and their seconds by (hook, id of the participant)."""

Trace = Callable[[str, str, Any, float], object]
"""Takes each call of an implementation: hook, id of the participant, update counter or None, seconds."""

Record = Callable[[Any, float], None]
"""Takes each call of one implementation: update counter or None, seconds."""


@dataclass(frozen=True, slots=True)
class HookWatch:
    """The measurements to take of hook calls. Hooks compiled without it read no clock.

    A call is measured when it has ended, also by an exception. The time of a wrapper contains that of the calls that it
    wraps.

    Attributes:
        timers: Counts the calls and adds up their seconds; wrappers are left out.
        trace: Takes each call.
    """

    timers: Timers | None = None
    trace: Trace | None = None

    def recorder(self, hook: str, participant: str, *, wraps: bool = False) -> Record:
        """Return a function that records the calls of one implementation."""
        timer = None if self.timers is None or wraps else self.timers.setdefault((hook, participant), [0, 0.0])
        trace = self.trace

        def record(update_counter: Any, seconds: float) -> None:
            if timer is not None:
                timer[0] += 1
                timer[1] += seconds
            if trace is not None:
                trace(hook, participant, update_counter, seconds)

        return record


_active: ContextVar[HookWatch | None] = ContextVar("noether_hook_watch", default=None)


@contextmanager
def watch_hooks(watch: HookWatch | None) -> Iterator[None]:
    """Measure the calls of all hooks that are compiled inside the `with` block, those of nested callbacks included."""
    token = _active.set(watch)
    try:
        yield
    finally:
        _active.reset(token)


def active_watch() -> HookWatch | None:
    """Return the measurements that `watch_hooks` asks for, or None."""
    return _active.get()


@contextmanager
def measured(hook: str, participant: str, update_counter: Any, watch: HookWatch) -> Iterator[None]:
    """Measure one call of a hook that its owner calls itself, such as `periodic_callback`."""
    record, start = watch.recorder(hook, participant), perf_counter()
    try:
        yield
    finally:
        record(update_counter, perf_counter() - start)


def print_call(hook: str, participant: str, update_counter: Any, seconds: float) -> None:
    """Print a call to stderr: `track_after_update_step  online-loss  update 12  0.041 ms`."""
    update = getattr(update_counter, "update", None)
    where = f"update {update}" if isinstance(update, int) else "-"
    with suppress(OSError, ValueError):  # a closed stderr is no reason to stop training
        print(f"{hook}  {participant}  {where}  {seconds * 1000:.3f} ms", file=sys.stderr, flush=True)
