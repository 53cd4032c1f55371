"""Entry points of the distribution: each resolves, fits its role, and documents its options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.metadata import distribution
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch.nn import functional as F

from noether.config.discriminated import config_class_of
from noether.kernel.entries import GROUPS, Entry
from noether.kernel.registry import Registry
from noether.optim import plateau, schedules

REGISTRY = Registry.installed()
BUILT_IN = sorted((entry for entry in REGISTRY.entries() if entry.is_built_in), key=lambda e: (e.role, e.name))
COMPONENTS = [entry for entry in BUILT_IN if entry.role not in ("plugin", "command")]


def named(entry: Entry) -> str:
    return f"{entry.role}-{entry.name}"


def targets(role: str) -> set[str]:
    return {entry.target for entry in COMPONENTS if entry.role == role}


def test_every_group_that_the_distribution_registers_is_a_role_s() -> None:
    groups = {point.group for point in distribution("noether-train").entry_points}
    assert {group for group in groups if group.startswith("noether.")} <= GROUPS.keys()


@pytest.mark.parametrize("entry", COMPONENTS, ids=named)
def test_every_component_resolves_and_fits_its_role(entry: Entry) -> None:
    component = REGISTRY.load(entry.role, entry.name)
    assert (component.kind, component.distribution) == (entry.name, "noether-train")


@pytest.mark.parametrize("entry", COMPONENTS, ids=named)
def test_every_field_of_every_config_has_a_description(entry: Entry) -> None:
    config = config_class_of(REGISTRY.load(entry.role, entry.name).target, entry.role)
    lacking = [f"{found.__name__}.{name}" for found in models_in(config) for name in undescribed(found)]
    assert lacking == []


def undescribed(config: type[BaseModel]) -> list[str]:
    return [name for name, field in config.model_fields.items() if not (field.description or "").strip()]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield a config and the configs in its fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for part in getattr(annotation, "__args__", ()):
        yield from models_in(part)


@pytest.mark.parametrize("entry", [entry for entry in COMPONENTS if entry.role != "loss"], ids=named)
def test_every_component_of_ours_says_what_it_is_for(entry: Entry) -> None:
    if not entry.target.startswith("noether."):
        return
    target = REGISTRY.load(entry.role, entry.name).target
    assert target.__doc__, f"{target.__qualname__} has no docstring"


def test_losses_are_all_functions_of_torch_that_fit_input_and_target() -> None:
    fitting = {f"torch.nn.functional:{name}" for name in dir(F) if fits_input_and_target(getattr(F, name))}
    assert targets("loss") == {name for name in fitting if not name.rpartition(":")[2].startswith("_")}


def fits_input_and_target(function: Any) -> bool:
    if not inspect.isroutine(function):
        return False
    try:
        signature = inspect.signature(function)
        signature.bind(input=None, target=None)
    except (TypeError, ValueError):
        return False
    return {"input", "target"} <= signature.parameters.keys()


def test_optimizers_are_all_classes_of_torch_under_their_own_names() -> None:
    optimizers = {
        name
        for name, found in vars(torch.optim).items()
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer
    }
    assert {entry.name for entry in COMPONENTS if entry.role == "optimizer"} == optimizers
    assert targets("optimizer") == {f"torch.optim:{name}" for name in optimizers}


def test_every_schedule_of_ours_is_registered() -> None:
    kinds = {
        f"{found.__module__}:{name}"
        for module in (schedules, plateau)
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, schedules.Schedule) and not inspect.isabstract(found)
    }
    assert targets("schedule") == kinds
