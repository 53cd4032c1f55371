"""The marks that functions carry: hook specification, hook implementation, no-op, called only when due."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import pluggy

PROJECT = "noether"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

_NO_OP = "noether_inherited_no_op"
_WHEN_DUE = "noether_when_due"
_Function = TypeVar("_Function", bound=Callable[..., Any])


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
