"""Find what a participant implements, and everything about it that cannot work, before anything is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from noether.core.utils.nearest import did_you_mean
from noether.kernel.binding import Binding, bind
from noether.kernel.every import interval_of
from noether.kernel.hookspecs import HOOKS
from noether.kernel.implementation import Implementation
from noether.kernel.markers import implementation_options, is_inherited_no_op, is_when_due
from noether.kernel.near_miss import near_misses
from noether.kernel.participant import Participant
from noether.kernel.periodic import PERIODIC, periodic_implementations
from noether.kernel.place import place_of

_WRONG_FORM = {
    True: "is marked as a wrapper, but has no `yield`",
    False: "is a generator or a coroutine, which a call does not run; a wrapper is marked wrapper=True",
}


class Discovery:
    """The implementations of one participant, and its problems.

    Attributes:
        implementations: What it implements, in no particular order.
        problems: What cannot work, as sentences that name the participant and the place.
    """

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        self.implementations: list[Implementation] = []
        self.problems: list[str] = []
        for name, static in _candidates(participant):
            self._take(name, static)
        if not participant.is_plugin:
            self.problems += [f"{participant}: {miss}" for miss in near_misses(type(participant.instance))]

    def _take(self, name: str, static: Any) -> None:
        """Add the implementation that an attribute is, or the reason why it is none."""
        options = implementation_options(static) or {}
        hook = options.get("specname") or name
        if hook not in HOOKS:
            if not options.get("optionalhook"):
                self._report(static, f"'{hook}' is no hook.{did_you_mean(hook, HOOKS)}")
        elif isinstance(static, property):
            self._report(static, f"{name} is a property, but a hook is a method")
        elif not callable(function := getattr(self.participant.instance, name)):
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
                self._report(function, f"{hook} is called only when due, but there is no method next_due_update")
        implementation = Implementation(hook, self.participant, function, binding, **flags, next_due=next_due)
        if hook == PERIODIC and self.participant.is_plugin:
            self._add_periodic(implementation)
        elif hook == PERIODIC and interval_of(function) is not None:
            self._report(function, "@noether.every is for run plugins; a callback's interval stands in the spec")
        else:
            self.implementations.append(implementation)

    def _add_periodic(self, implementation: Implementation) -> None:
        interval = interval_of(implementation.function)
        if implementation.wraps:
            self._report(implementation.function, f"{PERIODIC} of a run plugin cannot be a wrapper")
        elif interval is None:
            self._report(implementation.function, f"{PERIODIC} has no interval; add @noether.every(epochs=1)")
        else:
            self.implementations += periodic_implementations(implementation, interval)

    def _report(self, where: Any, message: str) -> None:
        self.problems.append(f"{self.participant}: {message}{place_of(where)}")


def _candidates(participant: Participant) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that claim to be hooks, as they stand in the class; no property is evaluated."""
    for name in dir(participant.instance):
        if name in participant.without:
            continue
        static = inspect.getattr_static(participant.instance, name, None)
        by_name = name in HOOKS and not participant.is_plugin and static is not None
        if implementation_options(static) is not None or (by_name and not is_inherited_no_op(static)):
            yield name, static
