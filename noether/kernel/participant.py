"""Who takes part in a run's hooks: a component that the spec names, or a run plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False, slots=True)
class Participant:
    """An object that implements hooks, with what errors, profiles and digests call it.

    It compares by identity and never asks the object itself, whose `__eq__` or `__hash__` may do anything.

    Attributes:
        id: Unique name within the run, the key of state and timings.
        kind: Canonical kind of a component, name of a run plugin.
        instance: The callback, or the module or object of a run plugin.
        distribution: Name of the distribution that it comes from; empty for project code.
        version: Version of that distribution.
        without: Hooks that somebody else calls on it, such as the callback that owns it.
        is_plugin: Whether it is a run plugin, whose hooks are those marked with `@noether.hookimpl`.
    """

    id: str
    kind: str
    instance: Any
    distribution: str = ""
    version: str = ""
    is_plugin: bool = False
    without: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Name it as errors do: `callback 'ema'`, `plugin 'hello'`."""
        return f"{'plugin' if self.is_plugin else 'callback'} '{self.id}'"

    @property
    def description(self) -> str:
        """Name it with its origin: `callback 'ema' (kind ema, noether-train 0.1.0)`."""
        origin = f"{self.distribution} {self.version}".strip()
        kind = "" if self.is_plugin else f"kind {self.kind}"
        details = ", ".join(part for part in (kind, origin) if part)
        return f"{self} ({details})" if details else str(self)
