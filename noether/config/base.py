"""The root of all configs: a `kind`, the component that it names, and errors raised by its constructor."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from pydantic_core import PydanticCustomError

from noether.errors import NoetherError, PluginError, SpecError, error_text
from noether.kernel.entries import Component, way_out
from noether.kernel.registry import active_registry
from noether.kernel.trust import ALWAYS_TRUSTED, SCRIPT, calling_package, folder_of


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
        if type(self) is not type(other) or self.__dict__ != other.__dict__:
            return False
        return self.model_extra == other.model_extra


def names_component(config: _RegistryBase) -> bool:
    """Return True if `config` names a component; a table of fixed meaning within another config does not need to."""
    return config._component is not None or bool(_kind_of(config))


def component_of(config: _RegistryBase) -> Component:
    """Return the component of `config`: the one that its spec resolved, else that of its `kind` or `name`.

    Raises:
        PluginError: if the config has neither a `kind` nor a `name`, or it names nothing that is installed.
    """
    if config._component is not None:
        return config._component
    kind = _kind_of(config)
    if not kind:
        raise PluginError(
            f"missing kind of {type(config).__name__}: found none, expected the kind of a {config.role}",
            hint=f'give it a kind: {type(config).__name__}(kind="…")',
        )
    return active_registry().load(config.role, kind, author=calling_package())


def _kind_of(config: _RegistryBase) -> str | None:
    kind: str | None = config.kind or getattr(config, "name", None)
    return kind


REFUSED = "refused"


def refused(message: str, *, hint: str, below: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """Return an error that points at a part of the validated value, as a `ValueError` cannot.

    Args:
        message: The problem.
        hint: The remedy.
        below: Keys and indices from the validated value to the refused part.
    """
    return PydanticCustomError(REFUSED, "{message}", {"message": message, "hint": hint, "below": below})


@contextmanager
def construction_of(config: _RegistryBase) -> Iterator[None]:
    """Name the component in errors raised by its constructor.

    Raises:
        SpecError: if the constructor raised an error that is not one of Noether's.
    """
    try:
        yield
    except NoetherError:
        raise
    except (Exception, SystemExit) as error:
        component = component_of(config)
        raise SpecError(
            f"the {component.role} '{component.kind}' ({component.origin}) cannot be built: {_with_place(error)}",
            hint=_info_command(component),
        ) from error


@contextmanager
def validation_of(component: Component) -> Iterator[None]:
    """Name the component in errors of its config's validators that pydantic does not take for a wrong value.

    Raises:
        PydanticCustomError: if a validator raised another error than a `ValueError` or `AssertionError`.
    """
    try:
        yield
    except (ValueError, AssertionError):
        raise
    except (Exception, SystemExit) as error:
        reason = error.message if isinstance(error, NoetherError) else _with_place(error)
        raise unknown_kind(
            f"the options of the {component.role} '{component.kind}' ({component.origin}) cannot be checked: {reason}",
            hint=(error.hint if isinstance(error, NoetherError) else None) or way_out(component.distribution),
            code="unusable-kind",
        ) from error


def unknown_kind(message: str, *, hint: str | None, code: str | None) -> PydanticCustomError:
    """Return an error about a component itself, with one of the codes of kinds."""
    return PydanticCustomError("unknown_kind", "{message}", {"message": message, "hint": hint, "code": code})


def _with_place(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error_text(error)} ({last.filename}:{last.lineno})"


def _info_command(component: Component) -> str | None:
    """Return a hint with the command that lists the options of a component, or None if no command finds it."""
    top = component.kind.partition(".")[0]
    if top == SCRIPT or "<" in component.kind:
        return None
    needs_trust = component.entry is None and component.distribution and top not in ALWAYS_TRUSTED
    command = f"noether plugins info {component.kind}{f' --trust {top}' if needs_trust else ''}"
    folder = None if component.distribution else folder_of(top)
    return f"list its options with: {command}{f' (in {folder})' if folder not in (None, Path.cwd()) else ''}"


_seed_of_run: ContextVar[int | None] = ContextVar("noether_seed", default=None)


@contextmanager
def building_with_seed(seed: int) -> Iterator[None]:
    """Give the keyword `seed` of components that are built in the `with` block the seed of the run."""
    token = _seed_of_run.set(seed)
    try:
        yield
    finally:
        _seed_of_run.reset(token)


def seed_of_run() -> int | None:
    """Return the seed of the run that is being built, or None outside of `building_with_seed`."""
    return _seed_of_run.get()


def seed_for(target: Any, seed: int | None = None) -> dict[str, int]:
    """Return the argument `seed` if a class or function takes it as a keyword; unset: that of the run, if known."""
    seed = seed_of_run() if seed is None else seed
    if seed is None:
        return {}
    try:
        parameter = signature(target).parameters.get("seed")
    except ValueError:  # written in C
        return {}
    takes_it = parameter is not None and parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {"seed": seed} if takes_it else {}


def construct(config: _RegistryBase, **arguments: Any) -> Any:
    """Construct the component of `config` from it and further arguments.

    Raises:
        SpecError: if the constructor raised an error that is not one of Noether's; it names the component.
    """
    target = component_of(config).target
    with construction_of(config):
        return target(config, **(seed_for(target) | arguments))
