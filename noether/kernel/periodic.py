"""Turn the `periodic_callback` of a run plugin into the hooks at whose moments its interval can fire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from noether.core.utils.training.counter import UpdateCounter
from noether.core.utils.training.intervals import Intervals, fires
from noether.kernel.binding import bind
from noether.kernel.hookspecs import HOOKS
from noether.kernel.implementation import Implementation
from noether.kernel.plan import compile_call

PERIODIC = "periodic_callback"


class PeriodicPlugin:
    """A run plugin's `periodic_callback` with the interval that `@noether.every` gave it.

    Args:
        implementation: The `periodic_callback`.
        intervals: Its interval.
    """

    def __init__(self, implementation: Implementation, intervals: Intervals) -> None:
        self._call = compile_call(PERIODIC, implementation.function)
        self._intervals = intervals

    def after_update(self, update_counter: UpdateCounter, **arguments: Any) -> Any:
        """Call it where an interval in updates or samples fires."""
        return self._call_if_fired("update", update_counter, arguments)

    def after_epoch(self, update_counter: UpdateCounter, **arguments: Any) -> Any:
        """Call it where an interval in epochs fires."""
        return self._call_if_fired("epoch", update_counter, arguments)

    def at_eval(self, **arguments: Any) -> Any:
        """Call it in a run that only evaluates."""
        return self._call("eval", **arguments)

    def next_due_update(self, counter: UpdateCounter) -> int:
        """Return the first update after the current one at which the interval fires."""
        return self._intervals.next_due_update(counter.update, counter.updates_per_epoch, counter.effective_batch_size)

    def _call_if_fired(
        self, hook: Literal["update", "epoch"], update_counter: UpdateCounter, arguments: dict[str, Any]
    ) -> Any:
        fired = fires(self._intervals, update_counter, hook)
        return None if fired is None else self._call(fired, update_counter, **arguments)


def periodic_implementations(implementation: Implementation, intervals: Intervals) -> list[Implementation]:
    """Return the hook at which an interval can fire, and `at_eval`, as what calls a `periodic_callback`."""
    periodic = PeriodicPlugin(implementation, intervals)
    moment = periodic.after_update if intervals.every_n_epochs is None else periodic.after_epoch
    return [
        replace(
            implementation,
            hook=function.__name__,
            function=function,
            binding=bind(function, HOOKS[function.__name__]),
            next_due=due,
        )
        for function, due in ((moment, periodic.next_due_update), (periodic.at_eval, None))
    ]
