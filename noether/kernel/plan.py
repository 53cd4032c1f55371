"""Compile what a hook calls: one function with every call written out, passing exactly what each one names.

Generated code, because a loop over adapters costs more than the calls themselves (pluggy's own call several
times as much), and a hook may fire at every update.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from time import perf_counter
from typing import Any

from noether.core.utils.training.early_stop import EarlyStopIteration
from noether.kernel.binding import bind
from noether.kernel.generated import define
from noether.kernel.hookspecs import HOOKS
from noether.kernel.implementation import Implementation
from noether.kernel.notes import add_note
from noether.kernel.stops import OnStop, first_stop, telling

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
