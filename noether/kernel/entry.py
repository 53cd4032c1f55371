"""Entry: one registered name, read from package metadata without importing what it names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

BUILT_IN = "noether-train"
PLUGIN_PREFIX = "noether-plugin-"


def normal(name: str) -> str:
    """Return the form in which names are compared: case and `-`/`_` don't matter."""
    return name.lower().replace("_", "-")


@dataclass(frozen=True)
class Entry:
    """One name that a distribution registers for a role.

    Attributes:
        role: Name of the role: "callback"; "plugin" for run plugins, "command" for subcommands.
        name: The registered name, a `kind`.
        target: What it names, as `module:Attr`.
        distribution: Name of the distribution.
        version: Its version.
    """

    role: str
    name: str
    target: str
    distribution: str
    version: str

    @property
    def is_built_in(self) -> bool:
        """Whether Noether itself registers it."""
        return normal(self.distribution) == BUILT_IN

    @property
    def origin(self) -> str:
        """The distribution and its version: `noether-train 0.1.0`."""
        return f"{self.distribution} {self.version}"

    @cached_property
    def package(self) -> str:
        """What stands before the slash of a qualified kind: the distribution without `noether-plugin-`."""
        return normal(self.distribution).removeprefix(PLUGIN_PREFIX)

    @property
    def qualified(self) -> str:
        """The kind that no other distribution can claim: `x/grad-norm`."""
        return f"{self.package}/{self.name}"

    @cached_property
    def normal_name(self) -> str:
        """The name as it is compared."""
        return normal(self.name)

    @property
    def class_name(self) -> str:
        """The last part of the target, which is accepted as a kind too: `CheckpointCallback`."""
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @property
    def top_package(self) -> str:
        """The top-level package that holds the target."""
        return self.target.partition(":")[0].partition(".")[0]
