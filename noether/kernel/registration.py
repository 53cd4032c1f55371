"""The implementations as pluggy sees them: it validates and orders them, and calls hooks with wrappers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import pluggy

from noether.core.utils.training.early_stop import EarlyStopIteration
from noether.kernel import hookspecs
from noether.kernel.generated import define
from noether.kernel.hookspecs import HOOKS
from noether.kernel.implementation import Implementation
from noether.kernel.markers import PROJECT
from noether.kernel.notes import add_first_note, add_note
from noether.kernel.plan import HookCall, Timers, compile_plan, counter_of, header, timed
from noether.kernel.stops import KeptStops, OnStop, going_on


class _Handle:
    """What pluggy registers for one implementation.

    Never the user's object: pluggy compares and hashes what it registers, which a callback may not survive,
    and it passes no keyword-only argument, while the adapter of a handle takes the arguments of the hookspec.
    """

    def __init__(self, implementation: Implementation, timers: Timers | None, stops: KeptStops) -> None:
        self.implementation = implementation
        setattr(self, implementation.hook, _adapter(implementation, timers, stops))


class Registration(pluggy.PluginManager):
    """Registers implementations that are already in call order.

    Args:
        ordered: The implementations, first called first.
        timers: As in `compile_plan`; a wrapper's own time is not measured.
        on_stop: As in `compile_plan`.
    """

    def __init__(
        self, ordered: Sequence[Implementation], timers: Timers | None = None, on_stop: OnStop | None = None
    ) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(hookspecs)
        self._timers = timers
        self._on_stop = on_stop
        self._stops = KeptStops(on_stop)
        # pluggy calls the last registered first. The groups are decided already: its own order for `trylast`
        # is the reverse of the others'.
        for implementation in reversed(ordered):
            self.register(_Handle(implementation, timers, self._stops))

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the options of a handle's one hook; asked by pluggy for each of its attributes."""
        implementation = plugin.implementation
        if name != implementation.hook:
            return None
        return {"wrapper": implementation.wrapper, "hookwrapper": implementation.hookwrapper}

    def in_call_order(self, hook: str) -> list[Implementation]:
        """Return the implementations of a hook as they are called, wrappers first, outermost first."""
        return [found.plugin.implementation for found in reversed(getattr(self.hook, hook).get_hookimpls())]

    def call(self, hook: str, *, always_only: bool = False) -> HookCall | None:
        """Return what calls a hook, or None where nobody implements it.

        Args:
            hook: Name of the hook.
            always_only: Leave those out that act only where their interval fires.
        """
        everyone = self.in_call_order(hook)
        due = [found for found in everyone if always_only and found.next_due is not None]
        called = [found for found in everyone if found not in due]
        if not called:
            return None
        if not any(found.wraps for found in called):
            return compile_plan(hook, called, self._timers, self._on_stop)
        handles = [handle for handle in self.get_plugins() if handle.implementation in due]
        return _by_name(hook, self.subset_hook_caller(hook, handles), self._stops)


def _by_name(hook: str, caller: Callable[..., Any], stops: KeptStops) -> HookCall:
    """Return a caller that takes arguments by position too, which pluggy's does not, and tells a stop in the end."""
    passed = ", ".join(["_caller", *(f"{name}={name}" for name in HOOKS[hook])])
    return define(hook, [header(hook), f"    return _call({passed})"], {"_call": stops.call, "_caller": caller})


def _adapter(implementation: Implementation, timers: Timers | None, stops: KeptStops) -> Callable[..., Any]:
    """Return a function with the hookspec's parameters that calls an implementation with what it names."""
    hook = implementation.hook
    counter = counter_of(hook)
    keep = f"_keep(_stop, _implementation, {counter})"
    scope: dict[str, Any] = {
        "_call": implementation.function,
        "_implementation": implementation,
        "_EarlyStopIteration": EarlyStopIteration,
        "_keep": stops.keep,
    }
    lines = [header(hook), "    try:"]
    if implementation.wraps:
        scope |= {"_add_note": add_first_note, "_going_on": going_on}
        wrapper = f"_call({implementation.binding.source})"
        lines.append(f"        return (yield from _going_on({wrapper}, lambda _stop: {keep}))")
    else:
        scope |= {"_add_note": add_note, "_clock": perf_counter}
        if timers is not None:
            scope["_timer"] = timers.setdefault((hook, implementation.participant.id), [0, 0.0])
        call = timed(f"_result = _call({implementation.binding.source})", "_timer", timers)
        lines += [f"        {line}" for line in (*call, "return _result")]
        lines += ["    except _EarlyStopIteration as _stop:", f"        {keep}"]
    lines += ["    except (Exception, SystemExit) as _error:", f"        _add_note(_error, _implementation, {counter})"]
    return define(hook, [*lines, "        raise"], scope)
