"""Whether an imported object can play the role that a spec gives it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import Any

from noether.errors import PluginError
from noether.kernel.entry import Entry
from noether.kernel.importing import explained, import_target
from noether.kernel.loss_module import function_instead, is_module
from noether.kernel.roles import ROLES, Role


def check_role(role: Role, kind: str, found: Any, entries: Iterable[Entry] = ()) -> None:
    """Check what a kind resolved to: a subclass of the role's base; for a loss a function of two tensors.

    Args:
        role: What it should be.
        kind: How the spec names it.
        found: What that is.
        entries: What is registered for the role: what to name instead.

    Raises:
        PluginError: It does not fit; the message names what it is and where that belongs.
    """
    if role.name == "loss":
        problem = _loss_problem(found)
    elif role.base is not None:
        problem = _class_problem(role, role.base, found)
    else:
        problem = None
    if problem is not None:
        hint = function_instead(found, entries) if role.name == "loss" and is_module(found) else _where_it_fits(found)
        raise PluginError(f"{role.name} kind {kind!r} {problem}", hint=hint, code="wrong-role")


def _class_problem(role: Role, base: str, found: Any) -> str | None:
    if not inspect.isclass(found):
        return f"names {_described(found)}, but {role.noun} is a class"
    if issubclass(found, explained(f"the base of {role.name}s", lambda: import_target(base))):
        return None
    return f"names {_described(found)}, which is no subclass of {base.replace(':', '.')}"


def _loss_problem(found: Any) -> str | None:
    if inspect.isclass(found) or not callable(found):
        return f"names {_described(found)}, but a loss is a function that takes (input, target)"
    try:
        signature = inspect.signature(found)
    except ValueError:  # written in C
        top = str(getattr(found, "__module__", None)).partition(".")[0]
        return None if top == "torch" else "names a callable whose signature cannot be read"
    try:
        signature.bind(input=None, target=None)
    except TypeError as error:
        return f"cannot be called as loss(input=..., target=...): {error}"
    return None


def _described(found: Any) -> str:
    if inspect.ismodule(found):
        return f"the module {found.__name__}"
    name = getattr(found, "__qualname__", None)
    what = "class" if inspect.isclass(found) else "function" if inspect.isroutine(found) else "object"
    return f"the {what} {name}" if name else f"an object of {type(found).__qualname__}"


def _where_it_fits(found: Any) -> str | None:
    """Return which role the object has instead; bases that nobody imported cannot be its bases."""
    if not inspect.isclass(found):
        return None
    for role in ROLES.values():
        module, _, attribute = (role.base or ":").partition(":")
        base = getattr(sys.modules.get(module), attribute, None)
        if inspect.isclass(base) and issubclass(found, base):
            return f"this is {role.noun}; it belongs in {role.hint}"
    return None
