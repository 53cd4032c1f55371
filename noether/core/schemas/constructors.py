"""Which constructors one call of a class goes through, and how their annotations are read one at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_overloads


def constructors(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Yield what a call of `target` goes through: itself, or its `__init__`s while they pass keywords on."""
    if not inspect.isclass(target):
        yield target
        return
    for owner in target.__mro__:
        constructor = vars(owner).get("__init__")
        if not inspect.isfunction(constructor):
            continue
        yield constructor
        if not any(p.kind is p.VAR_KEYWORD for p in parameters(constructor)):
            return


def parameters(constructor: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of `constructor`, none where it hides them (a builtin).

    An `*args, **kwargs` with overloads (`torch.nn.LSTM`) has those of the most detailed overload.
    """
    alternatives = [*get_overloads(constructor), constructor]
    try:
        return max((list(inspect.signature(each).parameters.values()) for each in alternatives), key=len)
    except ValueError:
        return []


def evaluated(annotation: Any, constructor: Callable[..., Any]) -> Any:
    """Evaluate an annotation that `from __future__ import annotations` may have left as text.

    Raises:
        Exception: Whatever evaluating the text raises, mostly a NameError.
    """
    if not isinstance(annotation, str):
        return annotation
    return eval(annotation, getattr(inspect.unwrap(constructor), "__globals__", {}))


def label(target: Any) -> str:
    """Return how messages call a class or a function: its import path."""
    return f"{target.__module__}.{getattr(target, '__qualname__', type(target).__qualname__)}"
