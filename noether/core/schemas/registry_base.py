"""The root of all configs: what is chosen by a `kind`, and how a config finds the class it configures."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from noether.errors import PluginError
from noether.kernel.entries import Component
from noether.kernel.registry import active_registry


class _RegistryBase(BaseModel):
    """Base of every config that a `kind` selects; derive from the base config of a role instead.

    Two configs are equal if their classes and fields are; which registry resolved them does not matter.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=False, ser_json_inf_nan="constants")

    role: ClassVar[str] = ""
    path_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that hold input paths; a spec's are relative to its file and made absolute when it is loaded."""

    kind: str = Field("", description="What to use: a short name, a qualified one (x/name), or a dotted path.")

    _component: Component | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _RegistryBase):
            return NotImplemented
        return type(self) is type(other) and self.__dict__ == other.__dict__


def names_component(config: _RegistryBase) -> bool:
    """Whether `config` says what it is for; a table of fixed meaning within another config need not."""
    return config._component is not None or bool(_kind_of(config))


def component_of(config: _RegistryBase) -> Component:
    """Return the component that `config` is for: what its spec resolved, else what its `kind` or `name` says.

    Raises:
        PluginError: The config has neither a `kind` nor a `name`, or it names nothing that is installed.
    """
    if config._component is not None:
        return config._component
    kind = _kind_of(config)
    if not kind:
        raise PluginError(
            f"{type(config).__name__} does not say which {config.role} it is for",
            hint=f'give it a kind: {type(config).__name__}(kind="…")',
        )
    return active_registry().load(config.role, kind)


def _kind_of(config: _RegistryBase) -> str | None:
    kind: str | None = config.kind or getattr(config, "name", None)
    return kind
