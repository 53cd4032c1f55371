"""The roles that a component can play in a spec: their entry-point groups, base classes and places."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """What a `kind` at one place of the spec must be.

    Attributes:
        name: Singular name: `callback`.
        group: Entry-point group that components of the role register in.
        base: `module:Attr` of the class that they derive from, imported only when something is checked
            against it; None where another rule holds (a loss is a callable).
        hint: Where in a spec it belongs.
    """

    name: str
    group: str
    base: str | None
    hint: str

    @property
    def noun(self) -> str:
        """The name with its article: `an optimizer`."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


def _role(name: str, base: str | None, hint: str, *, plural: str = "") -> Role:
    return Role(name, f"noether.{plural or name + 's'}", base, hint)


ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        _role("callback", "noether.core.callbacks.base:CallbackBase", "[[trainer.callbacks]]"),
        _role("trainer", "noether.training.trainers.base:BaseTrainer", "[trainer]"),
        _role("loss", None, "loss_fn of [trainer]", plural="losses"),
        _role("model", "torch.nn:Module", "[model]"),
        _role("dataset", "torch.utils.data:Dataset", "[datasets.<key>]"),
        _role("transform", "noether.data.transforms.base:Transform", "[[transforms]]"),
        _role("optimizer", "torch.optim:Optimizer", "[model.optimizer]"),
        _role("schedule", "noether.optim.schedules:Schedule", "schedule of [model.optimizer]"),
        _role("tracker", "noether.metrics.tracker:BaseTracker", "[[trackers]]"),
        _role("initializer", "noether.core.initializers.base:InitializerBase", "[initializer]"),
    )
}
"""The roles of components by name."""

PLUGIN = _role("plugin", None, "use of [plugins], or -p NAME")
"""Run plugins: modules or objects with hooks, no components."""

COMMAND = _role("command", None, "the command line: noether NAME")
"""Subcommands of `noether`."""

GROUPS: dict[str, Role] = {role.group: role for role in (*ROLES.values(), PLUGIN, COMMAND)}
"""Every entry-point group that is read, with its role."""
