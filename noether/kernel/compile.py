"""Compiled hooks: one generated function for each hook, with the call of every implementation written out.

The functions are generated because a loop over adapters costs more than the calls themselves (a call through pluggy
costs several times as much), and a hook may fire after every update. `HookWatch` is compiled into them on request.
"""

from __future__ import annotations

import itertools
import linecache
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import pluggy

from noether.kernel import hookspecs
from noether.kernel.hookspecs import HOOKS, PROJECT
from noether.kernel.participant import (
    Implementation,
    KeptStops,
    OnStop,
    add_first_note,
    add_note,
    bind,
    first_stop,
    going_on,
    report_to,
)
from noether.kernel.progress import EarlyStopIteration

T = TypeVar("T")
Timers = MutableMapping[tuple[str, str], list[float]]
"""Number of calls and their seconds by (hook, id of the participant)."""

Trace = Callable[[str, str, Any, float], object]
"""Takes each call of an implementation: hook, id of the participant, update counter or None, seconds."""

Around = Callable[[str, str], Callable[[], AbstractContextManager[object]]]
"""Takes hook and id of a participant when it is compiled; returns what opens a context around each of its calls."""

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
        around: Opens a context around each call, such as a named range of a profiler; inside of the time measured.
        stream: Takes the stream of batches when training begins, and returns the one to read in its place.
        counts: Count the calls of each hook, for the watchdog.
    """

    timers: Timers | None = None
    trace: Trace | None = None
    around: Around | None = None
    stream: Callable[[Iterator[Any]], Iterator[Any]] | None = None
    counts: bool = False

    @property
    def measures(self) -> bool:
        """Return True if calls are timed."""
        return self.timers is not None or self.trace is not None or self.around is not None

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


def watched(stream: Iterator[T]) -> Iterator[T]:
    """Return the stream of batches, through the active watch if it asks for that; called once, when training begins."""
    watch = active_watch()
    return stream if watch is None or watch.stream is None else watch.stream(stream)


@contextmanager
def measured(hook: str, participant: str, update_counter: Any, watch: HookWatch) -> Iterator[None]:
    """Measure one call of a hook that its owner calls itself, such as `periodic_callback`."""
    around = nullcontext if watch.around is None else watch.around(hook, participant)
    record, start = watch.recorder(hook, participant), perf_counter()
    try:
        with around():
            yield
    finally:
        record(update_counter, perf_counter() - start)


def print_call(hook: str, participant: str, update_counter: Any, seconds: float) -> None:
    """Print a call to stderr: `track_after_update_step  online-loss  update 12  0.041 ms`."""
    update = getattr(update_counter, "update", None)
    where = f"update {update}" if isinstance(update, int) else "-"
    with suppress(OSError, ValueError):  # a closed stderr does not stop training
        print(f"{hook}  {participant}  {where}  {seconds * 1000:.3f} ms", file=sys.stderr, flush=True)


HookCall = Callable[..., list[Any]]
"""Takes the arguments of a hook, by name or in the hookspec's order; returns the results that are not None."""

_number = itertools.count(1)


def define(name: str, lines: Sequence[str], namespace: Mapping[str, Any]) -> Callable[..., Any]:
    """Execute the source of one function and return it; tracebacks and debuggers show its lines while it lives."""
    filename = f"<noether {name} {next(_number)}>"
    source = "\n".join(lines) + "\n"
    scope = dict(namespace)
    exec(compile(source, filename, "exec"), scope)
    function: Callable[..., Any] = scope.pop(name)  # a reference to itself would keep it alive
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
    return function


def compile_hook(
    hook: str,
    implementations: Sequence[Implementation],
    *,
    on_stop: OnStop | None = None,
    watch: HookWatch | None = None,
) -> HookCall:
    """Return a function that calls the implementations of a hook one after the other.

    Args:
        hook: Name of the hook.
        implementations: The implementations in the order of their calls; no wrappers.
        on_stop: Takes the first `EarlyStopIteration` when all are called; without it, the stop is raised then.
        watch: Measurements to take.
    """
    counter = _counter_of(hook)
    scope: dict[str, Any] = {
        "_add_note": add_note,
        "_all": tuple(implementations),
        "_EarlyStopIteration": EarlyStopIteration,
        "_first_stop": first_stop,
        "_report": report_to(on_stop),
        "_clock": perf_counter,
    }
    lines = [_header(hook), *_counted(watch, scope), "    _results, _stop = [], None", "    try:"]
    for index, implementation in enumerate(implementations):
        lines += _indented(_one_call(index, implementation, watch, scope), 8)
    lines += ["    except BaseException as _error:", f"        _add_note(_error, _all[_at], {counter})"]
    lines += ["        raise", "    if _stop is not None:", "        _report(_stop)", "    return _results"]
    return define(hook, lines, scope)


def _counted(watch: HookWatch | None, scope: dict[str, Any]) -> list[str]:
    if watch is None or not watch.counts:
        return []
    scope["_calls"] = [0]
    return ["    _calls[0] += 1"]


def compile_call(hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes all arguments of a hook and passes on those that `function` names."""
    source = bind(function, HOOKS[hook]).source
    return define(hook, [_header(hook), f"    return _call({source})"], {"_call": function})


def _one_call(index: int, implementation: Implementation, watch: HookWatch | None, scope: dict[str, Any]) -> list[str]:
    """Return the lines of one call, and put their names into `scope`; their `try` costs nothing without an error."""
    counter = _counter_of(implementation.hook)
    scope[f"_call_{index}"] = implementation.function
    if watch is not None and watch.measures:
        scope |= _names_of(watch, implementation, f"_{index}")
    call = f"_result = _call_{index}({implementation.binding.source})"
    return [
        f"_at = {index}",
        "try:",
        *_indented(_measured(call, f"_{index}", counter, watch)),
        "    if _result is not None:",
        "        _results.append(_result)",
        "except _EarlyStopIteration as _raised:",
        f"    _stop = _first_stop(_stop, _raised, _all[{index}], {counter})",
    ]


def _names_of(watch: HookWatch, implementation: Implementation, suffix: str) -> dict[str, Any]:
    """Return the names that the lines of `_measured` use."""
    hook, participant = implementation.hook, implementation.participant.id
    names: dict[str, Any] = {f"_record{suffix}": watch.recorder(hook, participant, wraps=implementation.wraps)}
    return names if watch.around is None else {**names, f"_around{suffix}": watch.around(hook, participant)}


def _measured(call: str, suffix: str, counter: str, watch: HookWatch | None) -> list[str]:
    """Return the lines of a call, between readings of the clock and in a context if there is a watch."""
    if watch is None or not watch.measures:
        return [call]
    lines = [call] if watch.around is None else [f"with _around{suffix}():", f"    {call}"]
    record = f"_record{suffix}({counter}, _clock() - _start)"
    return ["_start = _clock()", "try:", *_indented(lines), "finally:", f"    {record}"]


def _indented(lines: Sequence[str], spaces: int = 4) -> list[str]:
    return [" " * spaces + line for line in lines]


def _header(hook: str) -> str:
    """Return the first line of a function with the parameters of a hook."""
    return f"def {hook}({', '.join(HOOKS[hook])}):"


def _counter_of(hook: str) -> str:
    """Return the source of the update counter in a function with the parameters of a hook; `None` if it has none."""
    return "update_counter" if "update_counter" in HOOKS[hook] else "None"


class _Handle:
    """The object that pluggy registers for one implementation.

    Never the user's object: pluggy compares and hashes what it registers, which a callback may not survive,
    and it passes no keyword-only argument, while the adapter of a handle takes the arguments of the hookspec.
    """

    def __init__(self, implementation: Implementation, adapter: Callable[..., Any]) -> None:
        self.implementation = implementation
        setattr(self, implementation.hook, adapter)


class Registration(pluggy.PluginManager):
    """The implementations of a run as pluggy sees them: it validates and orders them, and calls hooks with wrappers.

    Args:
        ordered: The implementations, first called first.
        on_stop: As in `compile_hook`.
        watch: Measurements to take.
    """

    def __init__(
        self, ordered: Sequence[Implementation], *, on_stop: OnStop | None = None, watch: HookWatch | None = None
    ) -> None:
        super().__init__(PROJECT)
        self.add_hookspecs(hookspecs)
        self._on_stop = on_stop
        self._watch = watch
        self._stops = KeptStops(on_stop)
        # pluggy calls the last registered first. The groups are decided already: its own order for `trylast`
        # is the reverse of the others'.
        wrapped = {implementation.hook for implementation in ordered if implementation.wraps}
        for implementation in reversed(ordered):
            # Only hooks with a wrapper are called through pluggy, which else looks at the parameters.
            is_called = implementation.hook in wrapped
            function = (
                _adapter(implementation, self._stops, watch) if is_called else vars(hookspecs)[implementation.hook]
            )
            self.register(_Handle(implementation, function))

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the options of a handle's one hook; pluggy asks for each of its attributes."""
        implementation = plugin.implementation
        if name != implementation.hook:
            return None
        return {"wrapper": implementation.wrapper, "hookwrapper": implementation.hookwrapper}

    def in_call_order(self, hook: str) -> list[Implementation]:
        """Return the implementations of a hook as they are called, wrappers first, outermost first."""
        return [found.plugin.implementation for found in reversed(getattr(self.hook, hook).get_hookimpls())]

    def compiled(self, hook: str, *, always_only: bool = False) -> HookCall | None:
        """Return the compiled hook, or None if nothing implements it.

        Args:
            hook: Name of the hook.
            always_only: Leave out the implementations that act only when their interval fires.
        """
        implementations = self.in_call_order(hook)
        due = [found for found in implementations if always_only and found.next_due is not None]
        called = [found for found in implementations if found not in due]
        if not called:
            return None
        if not any(found.wraps for found in called):
            return compile_hook(hook, called, on_stop=self._on_stop, watch=self._watch)
        handles = [handle for handle in self.get_plugins() if handle.implementation in due]
        return _through_pluggy(hook, self.subset_hook_caller(hook, handles), self._stops)


def _through_pluggy(hook: str, caller: Callable[..., Any], stops: KeptStops) -> HookCall:
    """Return a function that takes arguments by position too, which pluggy does not, and reports a stop at the end."""
    passed = ", ".join(["_caller", *(f"{name}={name}" for name in HOOKS[hook])])
    return define(hook, [_header(hook), f"    return _call({passed})"], {"_call": stops.call, "_caller": caller})


def _adapter(implementation: Implementation, stops: KeptStops, watch: HookWatch | None) -> Callable[..., Any]:
    """Return a function with the hookspec's parameters that passes an implementation the arguments that it names."""
    hook, counter = implementation.hook, _counter_of(implementation.hook)
    keep = f"_keep(_stop, _implementation, {counter})"
    call = f"_call({implementation.binding.source})"
    scope: dict[str, Any] = {
        "_call": implementation.function,
        "_implementation": implementation,
        "_EarlyStopIteration": EarlyStopIteration,
        "_keep": stops.keep,
        "_add_note": add_first_note if implementation.wraps else add_note,
        "_going_on": going_on,
        "_clock": perf_counter,
    }
    if watch is not None and watch.measures:
        scope |= _names_of(watch, implementation, "")
    if implementation.wraps:
        call = f"yield from _going_on({call}, lambda _stop: {keep})"
    lines = [_header(hook), *_counted(watch, scope), "    try:"]
    lines += _indented([*_measured(f"_result = {call}", "", counter, watch), "return _result"], 8)
    if not implementation.wraps:  # `_going_on` keeps the stop of a wrapper
        lines += ["    except _EarlyStopIteration as _stop:", f"        {keep}"]
    else:
        lines += ["    except GeneratorExit:", "        raise"]  # it is closed, and has raised nothing
    lines += ["    except BaseException as _error:", f"        _add_note(_error, _implementation, {counter})"]
    return define(hook, [*lines, "        raise"], scope)
