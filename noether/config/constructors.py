"""Constructors: the functions that a call of a class runs, their parameters, and those that they pass on."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from textwrap import dedent
from typing import Any, get_overloads


def constructors(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield the functions that a call of `target` runs: itself, or its `__init__`s while they pass keywords on."""
    if not inspect.isclass(target):
        yield target
        return
    for owner in target.__mro__:
        own = vars(owner)
        name = "__init__" if "__init__" in own else "__new__"
        constructor = getattr(owner, name) if name in own else None  # looked up, since it may be a partialmethod
        if not inspect.isfunction(constructor):
            continue
        yield constructor
        if not takes_any_keyword(constructor):
            return


def parameters(constructor: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of `constructor`, none if it hides them (a builtin).

    An `*args, **kwargs` with overloads (`torch.nn.LSTM`) has those of the most detailed overload.
    """
    alternatives = [*get_overloads(without_partials(constructor)), constructor]
    try:
        return max((list(inspect.signature(each).parameters.values()) for each in alternatives), key=len)
    except ValueError:
        return []


def takes_any_keyword(constructor: Callable[..., Any]) -> bool:
    """Return True if a function has a parameter `**kwargs`."""
    return any(p.kind is p.VAR_KEYWORD for p in parameters(constructor))


def positional(found: Sequence[inspect.Parameter]) -> list[str]:
    """Return the names of the parameters that an argument reaches by position, in their order."""
    return [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def without_partials(target: Any) -> Any:
    """Return the function or class in a `functools.partial`, or the object itself."""
    return without_partials(target.func) if isinstance(target, partial) else target


def label(target: Any) -> str:
    """Return the import path of a class or function, for messages."""
    target = without_partials(target)
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"


def given_to_parent(constructor: Callable[..., Any], parent: Callable[..., Any]) -> set[str]:
    """Return the parameters of a parent that a constructor gives itself: `super().__init__(16, act="relu", **kwargs)`.

    Args:
        constructor: The constructor, which passes its `**kwargs` on.
        parent: The constructor of the parent.
    """
    try:
        tree = ast.parse(dedent(inspect.getsource(inspect.unwrap(constructor))))
    except (OSError, TypeError, SyntaxError):  # no source, as in an interpreter
        return set()
    given: set[str] = set()
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "__init__":
            continue
        named = [word.arg for word in call.keywords]
        if None in named:  # it passes **kwargs on
            is_super = isinstance(call.func.value, ast.Call)  # if not, the object is an argument: Parent.__init__(self)
            number = len([value for value in call.args if not isinstance(value, ast.Starred)]) + is_super
            given |= {*positional(parameters(parent))[:number], *filter(None, named)}
    return given


def constants(constructor: Callable[..., Any]) -> set[str]:
    """Return the text in the code of a constructor, such as the key of `kwargs["width"] = 16`."""
    code = getattr(inspect.unwrap(constructor), "__code__", None)
    return {text for text in getattr(code, "co_consts", ()) if isinstance(text, str)}
