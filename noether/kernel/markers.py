"""Marks on functions: hook specification, implementation, inherited no-op, due only, interval."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import pluggy

from noether.errors import PluginError
from noether.kernel.intervals import Intervals

_MARK = "noether_every"
_Function = TypeVar("_Function", bound=Callable[..., Any])


def every(
    *, epochs: int | None = None, updates: int | None = None, samples: int | None = None
) -> Callable[[_Function], _Function]:
    """Give a run plugin's `periodic_callback` its interval; it goes above or below `@noether.hookimpl`.

    Args:
        epochs: Call it every so many epochs.
        updates: Call it every so many updates.
        samples: Call it every so many samples.

    Raises:
        PluginError: Not exactly one interval is given, or it is no whole number of at least 1.
    """
    given = [(unit, n) for unit, n in (("epochs", epochs), ("updates", updates), ("samples", samples)) if n is not None]
    if len(given) != 1:
        raise PluginError(
            f"@noether.every takes exactly one interval, found {len(given)}", hint="@noether.every(epochs=1)"
        )
    unit, n = given[0]
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise PluginError(f"@noether.every({unit}={n!r}): an interval is a whole number of at least 1")

    def mark(function: _Function) -> _Function:
        setattr(function, _MARK, Intervals(epochs, updates, samples))
        return function

    return mark


def interval_of(function: object) -> Intervals | None:
    """Return the interval that `@noether.every` left on a function, or None."""
    found = getattr(function, _MARK, None)
    return found if isinstance(found, Intervals) else None


PROJECT = "noether"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

_NO_OP = "noether_inherited_no_op"
_WHEN_DUE = "noether_when_due"


def inherited_no_op(function: _Function) -> _Function:
    """Mark a base-class method that documents a hook and does nothing: inheriting it implements nothing."""
    setattr(function, _NO_OP, True)
    return function


def when_due(function: _Function) -> _Function:
    """Mark an `after_update` or `after_epoch` that acts only where its interval fires: other rounds skip it.

    Its object tells the rounds: it has a method `next_due_update(update_counter) -> int | None`.
    """
    setattr(function, _WHEN_DUE, True)
    return function


def is_inherited_no_op(function: object) -> bool:
    """Whether `function` was marked with `inherited_no_op`."""
    return getattr(function, _NO_OP, False) is True


def is_when_due(function: object) -> bool:
    """Whether `function` was marked with `when_due`."""
    return getattr(function, _WHEN_DUE, False) is True


def implementation_options(attribute: object) -> dict[str, Any] | None:
    """Return the options that `@noether.hookimpl` left on a function, or None where it was not decorated.

    Args:
        attribute: As `inspect.getattr_static` finds it. Anything but a function is not even looked at: an
            attribute may be any object, with a `__getattr__` of its own.
    """
    if not inspect.isroutine(attribute):
        return None
    options = getattr(getattr(attribute, "__func__", attribute), f"{PROJECT}_impl", None)
    return dict(options) if isinstance(options, dict) else None
