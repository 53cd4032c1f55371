"""Implementation: one method or function that a hook calls, ready to be ordered and called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from noether.core.utils.training.counter import UpdateCounter
from noether.kernel.binding import Binding
from noether.kernel.participant import Participant

NextDue = Callable[[UpdateCounter], int | None]


@dataclass(frozen=True, eq=False, slots=True)
class Implementation:
    """One implementation of one hook.

    Attributes:
        hook: Name of the hook.
        participant: Whose it is.
        function: What is called, bound to its object.
        binding: Which arguments it gets.
        tryfirst: Whether it asked to be called before others.
        trylast: Whether it asked to be called after others.
        wrapper: Whether it is a generator around the other calls, as in `hookimpl(wrapper=True)`.
        hookwrapper: Whether it is one of the older kind, which gets a `pluggy.Result`.
        next_due: For an implementation that acts only where an interval fires: at which update that is.
    """

    hook: str
    participant: Participant
    function: Callable[..., Any]
    binding: Binding
    tryfirst: bool = False
    trylast: bool = False
    wrapper: bool = False
    hookwrapper: bool = False
    next_due: NextDue | None = None

    @property
    def wraps(self) -> bool:
        """Whether it is a wrapper of either kind."""
        return self.wrapper or self.hookwrapper


def call_order(implementation: Implementation) -> tuple[int, bool]:
    """Return the key that sorts the implementations of a hook; equal ones stay in the order given.

    Run plugins marked tryfirst, components in the order of the spec, the other run plugins in the order of
    `use`, those marked trylast. A component may be marked too; the spec's order then rules within the group.
    """
    is_plugin = implementation.participant.is_plugin
    if implementation.tryfirst:
        return 0, not is_plugin
    if implementation.trylast:
        return 3, is_plugin
    return 1, is_plugin
