"""Discovery of the hooks that a participant implements, and of its mistakes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any, Literal

from noether.errors import PluginError
from noether.kernel.compile import HookWatch, compile_call, measured
from noether.kernel.entries import PLUGIN, Component, way_out
from noether.kernel.hookspecs import (
    HOOKS,
    implementation_options,
    interval_of,
    is_inherited_no_op,
    is_when_due,
    static_attributes,
    unguarded,
)
from noether.kernel.names import did_you_mean
from noether.kernel.participant import Binding, Implementation, Participant, bind
from noether.kernel.progress import Intervals, UpdateCounter, fires


def place_of(attribute: Any) -> str:
    """Return ` (file:line)` of a function, method or property, or an empty string if it has no source."""
    function = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""


# High enough that a helper such as `after_train_batch_stats` or `process_results` keeps its name; `after_epoch`, the
# shortest hook that people misspell, with one letter wrong, missing, doubled or swapped is still above it.
_SIMILARITY = 0.9


def near_misses(cls: type) -> Iterator[str]:
    """Yield a problem for each public method of a user's class that is named almost like a hook."""
    for owner in inspect.getmro(cls):
        if owner.__module__.partition(".")[0] in ("noether", "builtins", "torch"):
            continue
        for name, attribute in vars(owner).items():
            if name.startswith("_") or name in HOOKS or not _is_method(attribute):
                continue
            if (hook := _meant(name)) is not None:
                yield f"{owner.__qualname__}.{name} is not a hook. Did you mean '{hook}'?{place_of(attribute)}"


def _meant(name: str) -> str | None:
    """Return the hook that a name is a misspelling of, or None."""
    plain = _plain(name)
    ratio, hook = max((SequenceMatcher(None, plain, _plain(hook)).ratio(), hook) for hook in HOOKS)
    return hook if ratio >= _SIMILARITY else None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _is_method(attribute: object) -> bool:
    return inspect.isroutine(attribute) or isinstance(attribute, (staticmethod, classmethod))


PERIODIC = "periodic_callback"


class PeriodicPlugin:
    """A run plugin's `periodic_callback` with the interval that `@noether.every` gave it.

    Args:
        implementation: The `periodic_callback`.
        intervals: Its interval.
        watch: Measurements to take.
    """

    def __init__(self, implementation: Implementation, intervals: Intervals, watch: HookWatch | None) -> None:
        self._call = compile_call(PERIODIC, implementation.function)
        self._id = implementation.participant.id
        self._intervals = intervals
        self._watch = watch

    def after_update(self, update_counter: UpdateCounter, **arguments: Any) -> Any:
        """Call it if an interval in updates or samples fires."""
        return self._call_if_fired("update", update_counter, arguments)

    def after_epoch(self, update_counter: UpdateCounter, **arguments: Any) -> Any:
        """Call it if an interval in epochs fires."""
        return self._call_if_fired("epoch", update_counter, arguments)

    def at_eval(self, update_counter: UpdateCounter, **arguments: Any) -> Any:
        """Call it in a run that only evaluates."""
        return self._act("eval", update_counter, arguments)

    def next_due_update(self, counter: UpdateCounter) -> int:
        """Return the first update after the current one at which the interval fires."""
        return self._intervals.next_due_update(counter.update, counter.updates_per_epoch, counter.effective_batch_size)

    def _call_if_fired(
        self, hook: Literal["update", "epoch"], update_counter: UpdateCounter, arguments: dict[str, Any]
    ) -> Any:
        fired = fires(self._intervals, update_counter, hook)
        return None if fired is None else self._act(fired, update_counter, arguments)

    def _act(self, interval_type: str, update_counter: UpdateCounter, arguments: dict[str, Any]) -> Any:
        if self._watch is None:
            return self._call(interval_type, update_counter, **arguments)
        with measured(PERIODIC, self._id, update_counter, self._watch):
            return self._call(interval_type, update_counter, **arguments)


def periodic_implementations(
    implementation: Implementation, intervals: Intervals, watch: HookWatch | None
) -> list[Implementation]:
    """Return the implementations that call a `periodic_callback`: of the hook of its interval, and of `at_eval`."""
    periodic = PeriodicPlugin(implementation, intervals, watch)
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


_WRONG_FORM = {
    True: "is marked as a wrapper, but has no `yield`",
    False: "is a generator or a coroutine, which a call does not run; mark wrappers with wrapper=True",
}


class Discovery:
    """The implementations of one participant, and its problems, found before anything is called.

    Args:
        participant: The component or run plugin.
        watch: Measurements to take of its `periodic_callback`.

    Attributes:
        implementations: The implementations, in no particular order.
        problems: Mistakes that keep an implementation from working, as sentences with participant and place.
    """

    def __init__(self, participant: Participant, watch: HookWatch | None = None) -> None:
        self.participant = participant
        self._watch = watch
        self.implementations: list[Implementation] = []
        self.problems: list[str] = []
        for name, static in _candidates(participant):
            self._take(name, static)
        if not participant.is_plugin:
            self.problems += [
                f"{participant.with_distribution}: {miss}" for miss in near_misses(type(participant.instance))
            ]

    def _take(self, name: str, static: Any) -> None:
        """Add an attribute as an implementation, or the problem with it."""
        options = implementation_options(static) or {}
        hook = options.get("specname") or name
        if hook not in HOOKS:
            if not options.get("optionalhook"):
                self._report(static, f"'{hook}' is not a hook.{did_you_mean(hook, HOOKS)}")
        elif isinstance(static, property):
            self._report(static, f"{name} is a property, but a hook is a method")
        elif not callable(function := unguarded(getattr(self.participant.instance, name))):
            self._report(static, f"{name} is {type(function).__name__!r}, but a hook is a method")
        elif (binding := self._bound(hook, function)) is not None:
            self._add(hook, function, binding, options)

    def _bound(self, hook: str, function: Callable[..., Any]) -> Binding | None:
        offered = HOOKS[hook]
        try:
            binding = bind(function, offered)
        except (ValueError, TypeError) as error:
            self._report(function, f"the signature of {hook} cannot be read: {error}")
            return None
        for name in binding.unknown:
            meant = did_you_mean(name, offered)
            self._report(function, f"{hook} has no argument '{name}'.{meant} It offers {', '.join(offered)}.")
        return None if binding.unknown else binding

    def _add(self, hook: str, function: Callable[..., Any], binding: Binding, options: dict[str, Any]) -> None:
        flags = {flag: bool(options.get(flag)) for flag in ("tryfirst", "trylast", "wrapper", "hookwrapper")}
        wraps = flags["wrapper"] or flags["hookwrapper"]
        if wraps != inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            self._report(function, f"{hook} {_WRONG_FORM[wraps]}")
            return
        next_due = None
        if is_when_due(function) and not wraps:
            next_due = getattr(self.participant.instance, "next_due_update", None)
            if next_due is None:
                self._report(function, f"{hook} is called only when due, but the class has no method next_due_update")
        implementation = Implementation(hook, self.participant, function, binding, **flags, next_due=next_due)
        if hook == PERIODIC and self.participant.is_plugin:
            self._add_periodic(implementation)
        elif hook == PERIODIC and interval_of(function) is not None:
            self._report(function, "@noether.every is for run plugins; a callback has its interval in the spec")
        else:
            self.implementations.append(implementation)

    def _add_periodic(self, implementation: Implementation) -> None:
        interval = interval_of(implementation.function)
        if implementation.wraps:
            self._report(implementation.function, f"{PERIODIC} of a run plugin cannot be a wrapper")
        elif interval is None:
            self._report(implementation.function, f"{PERIODIC} has no interval; add @noether.every(epochs=1)")
        else:
            self.implementations += periodic_implementations(implementation, interval, self._watch)

    def _report(self, where: Any, message: str) -> None:
        self.problems.append(f"{self.participant.with_distribution}: {message}{place_of(where)}")


def discovered(component: Component) -> Discovery:
    """Return the hooks of a callback class or run plugin, with its problems; nothing is constructed.

    Raises:
        PluginError: if the class is abstract.
    """
    is_plugin = component.role == PLUGIN.name
    if not is_plugin and inspect.isabstract(component.target):
        missing = ", ".join(sorted(component.target.__abstractmethods__))
        raise PluginError(
            f"callback '{component.kind}' ({component.origin}) is abstract: found a class without {missing}",
            hint=way_out(component.distribution),
        )
    instance = component.target if is_plugin else _bare(component.target)
    kind, distribution, version = component.kind, component.distribution, component.version
    return Discovery(Participant(kind, kind, instance, distribution, version, is_plugin=is_plugin))


def _bare(cls: type) -> object:
    """Return an instance that no constructor was called for; None if the class cannot have one."""
    try:
        return object.__new__(cls)
    except TypeError:  # of a class that derives from one written in C
        return None


def implemented_hooks(component: Component) -> list[str]:
    """Return the hooks that a callback class or run plugin implements, in the order of a run.

    What acts when an interval fires implements `periodic_callback`, and not the round that calls it.
    """
    found = {PERIODIC if one.next_due is not None else one.hook for one in discovered(component).implementations}
    return [hook for hook in HOOKS if hook in found]


def _candidates(participant: Participant) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that claim to be hooks, as the class defines them; no property is evaluated."""
    for name, static in sorted(static_attributes(participant.instance).items()):
        if name in participant.without:
            continue
        by_name = name in HOOKS and not participant.is_plugin
        if implementation_options(static) is not None or (by_name and not is_inherited_no_op(static)):
            yield name, static
