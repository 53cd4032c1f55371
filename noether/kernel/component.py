"""Component: what a `kind` of the spec resolved to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noether.kernel.entry import Entry


@dataclass(frozen=True)
class Component:
    """An imported class (or callable) with the name that it was asked for by.

    Attributes:
        role: Name of its role.
        kind: Canonical kind: a short name, a qualified one (`x/grad-norm`) or a dotted path.
        target: The class, the callable of a loss, or the object of a run plugin.
        entry: The registration, or None for a dotted path that nobody registers.
        distribution: The distribution that it comes from; empty for a project's own code.
        version: The version of that distribution; empty for a project's own code.
    """

    role: str
    kind: str
    target: Any
    entry: Entry | None = None
    distribution: str = ""
    version: str = ""

    @classmethod
    def registered(cls, kind: str, target: Any, entry: Entry) -> Component:
        """Return the component of a registration."""
        return cls(entry.role, kind, target, entry, entry.distribution, entry.version)

    @property
    def origin(self) -> str:
        """Where it comes from: `noether-train 0.1.0`, or `project code`."""
        return f"{self.distribution} {self.version}" if self.distribution else "project code"
