"""`@noether.every`: the interval of a run plugin's `periodic_callback`, which no config gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from noether.core.utils.training.intervals import Intervals
from noether.errors import PluginError

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
