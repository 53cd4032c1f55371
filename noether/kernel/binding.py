"""Which of a hook's arguments an implementation gets, and how each is passed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Binding:
    """How to call an implementation with the arguments of its hook.

    Attributes:
        positional: Hook arguments to pass by position: those of positional-only parameters.
        keywords: Hook arguments to pass by name.
        unknown: Required parameters that the hook has no argument for; not callable unless empty.
    """

    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def source(self) -> str:
        """The argument list of the call as Python source: `update_counter, times=times`."""
        return ", ".join([*self.positional, *(f"{name}={name}" for name in self.keywords)])


def bind(function: Callable[..., Any], arguments: Sequence[str]) -> Binding:
    """Bind an implementation to the arguments that its hook offers.

    It gets every argument that it names, whether its parameter has a default or not, and all of them where it
    takes `**kwargs`. A parameter with a default that the hook does not offer keeps that default.

    Args:
        function: The implementation, bound to its object where it is a method.
        arguments: Names of the hook's arguments.

    Raises:
        ValueError: Its signature cannot be read (some callables written in C).
        TypeError: It is not callable.
    """
    positional: list[str] = []
    keywords: list[str] = []
    unknown: list[str] = []
    takes_all = False
    reachable = True  # by position: false behind a positional-only parameter that keeps its default
    for name, parameter in inspect.signature(function).parameters.items():
        takes_all |= parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if name not in arguments:
            if parameter.default is parameter.empty:
                unknown.append(name)
            reachable &= parameter.kind is not parameter.POSITIONAL_ONLY
        elif parameter.kind is not parameter.POSITIONAL_ONLY:
            keywords.append(name)
        elif reachable:
            positional.append(name)
    if takes_all:
        keywords += [name for name in arguments if name not in (*positional, *keywords)]
    return Binding(tuple(positional), tuple(keywords), tuple(unknown))
