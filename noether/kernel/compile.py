"""Compiled hooks: one generated function a hook that calls all of its implementations."""

from __future__ import annotations

import itertools
import linecache
import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from time import perf_counter
from typing import Any

import pluggy

from noether.kernel import hookspecs
from noether.kernel.binding import Implementation, bind
from noether.kernel.hookspecs import HOOKS
from noether.kernel.markers import PROJECT
from noether.kernel.progress import EarlyStopIteration
from noether.kernel.stops import KeptStops, OnStop, add_first_note, add_note, first_stop, going_on, telling

_number = itertools.count(1)


def define(name: str, lines: Sequence[str], namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """Execute the source of one function and return it; its source is forgotten together with it."""
    filename = f"<noether {name} {next(_number)}>"
    source = "\n".join(lines) + "\n"
    scope = dict(namespace)
    exec(compile(source, filename, "exec"), scope)
    function: Callable[..., Any] = scope.pop(name)  # which would keep itself alive in there
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
    return function


HookCall = Callable[..., list[Any]]
"""Takes a hook's arguments, by name or in the hookspec's order; returns the results that are not None."""

Timers = MutableMapping[tuple[str, str], list[float]]
"""Number of calls and seconds by (hook, id of the participant)."""


def compile_plan(
    hook: str,
    implementations: Sequence[Implementation],
    timers: Timers | None = None,
    on_stop: OnStop | None = None,
) -> HookCall:
    """Return a function that calls the implementations of a hook one after the other.

    Args:
        hook: Name of the hook.
        implementations: What to call, in this order; no wrappers.
        timers: Where to count calls and seconds; without it, no clock is read.
        on_stop: Told in the end of an `EarlyStopIteration`, which is raised where it is None.
    """
    scope: dict[str, Any] = {
        "_add_note": add_note,
        "_all": tuple(implementations),
        "_clock": perf_counter,
        "_EarlyStopIteration": EarlyStopIteration,
        "_first_stop": first_stop,
        "_tell": telling(on_stop),
    }
    counter = counter_of(hook)
    lines = [header(hook), "    _results, _stop = [], None", "    try:"]
    for index, implementation in enumerate(implementations):
        scope[f"_call_{index}"] = implementation.function
        call = f"_result = _call_{index}({implementation.binding.source})"
        if timers is not None:
            scope[f"_timer_{index}"] = timers.setdefault((hook, implementation.participant.id), [0, 0.0])
        lines += [f"        {line}" for line in _step(index, timed(call, f"_timer_{index}", timers), counter)]
    lines += [
        "    except (Exception, SystemExit) as _error:",
        f"        _add_note(_error, _all[_at], {counter})",
        "        raise",
        "    if _stop is not None:",
        "        _tell(_stop)",
        "    return _results",
    ]
    return define(hook, lines, scope)


def _step(index: int, call: Sequence[str], counter: str) -> list[str]:
    """Return the lines of one call; a `try` costs nothing where nothing is raised."""
    return [
        f"_at = {index}",
        "try:",
        *(f"    {line}" for line in call),
        "    if _result is not None:",
        "        _results.append(_result)",
        "except _EarlyStopIteration as _raised:",
        f"    _stop = _first_stop(_stop, _raised, _all[{index}], {counter})",
    ]


def compile_call(hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes all arguments of a hook and passes on those that `function` names."""
    source = bind(function, HOOKS[hook]).source
    return define(hook, [header(hook), f"    return _call({source})"], {"_call": function})


def header(hook: str) -> str:
    """Return the first line of a function with the parameters of a hook."""
    return f"def {hook}({', '.join(HOOKS[hook])}):"


def counter_of(hook: str) -> str:
    """Return the source of the update counter in a function with the parameters of a hook; not all have one."""
    return "update_counter" if "update_counter" in HOOKS[hook] else "None"


def timed(call: str, timer: str, timers: Timers | None) -> list[str]:
    """Return the lines of a call, between readings of the clock where there are timers."""
    if timers is None:
        return [call]
    return ["_start = _clock()", call, f"{timer}[0] += 1", f"{timer}[1] += _clock() - _start"]


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
