"""Build the torch optimizer of `[model.optimizer]` over a model's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from noether.config.base import component_of
from noether.config.components import OptimizerBaseConfig, ScheduleBaseConfig
from noether.config.signature import SignatureConfig
from noether.errors import SpecError
from noether.optim.groups import GroupDefaults, parameter_groups
from noether.optim.model_optimizer import ModelOptimizer, Scheduled
from noether.optim.schedules import Schedule

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})  # devices with one kernel for all parameters


def build_optimizer(
    config: OptimizerBaseConfig,
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    *,
    total_updates: int,
    updates_per_epoch: int,
) -> ModelOptimizer:
    """Build the optimizer that `config` names, with its groups, clipping and schedules.

    Args:
        config: A config whose own fields are the optimizer's options.
        named_parameters: The model's parameters with their names; frozen ones are left out.
        total_updates: Updates of the whole run, for the schedules.
        updates_per_epoch: Updates in one epoch, for the schedules.

    Raises:
        SpecError: If nothing is trainable, a group does not fit, or torch refuses the options.
    """
    optimizer_class = component_of(config).target
    options = _options(config)
    defaults = GroupDefaults(
        weight_decay=options.get("weight_decay", _default(optimizer_class, "weight_decay")),
        decay_bias_and_norm=config.decay_bias_and_norm,
        lr=options.get("lr", _default(optimizer_class, "lr")),
    )
    groups = parameter_groups(named_parameters, defaults, config.groups)
    if not groups:
        raise SpecError(
            "the model has no trainable parameters, expected at least one", hint="loosen `frozen` under [model]"
        )
    names = [name for group in groups for name in group.pop("names")]
    options = _fused_where_possible(optimizer_class, options, groups)
    optimizer = _construct(optimizer_class, groups, options, config.kind)
    return ModelOptimizer(
        optimizer,
        names=names,
        scheduled=_scheduled(config, optimizer, total_updates=total_updates, updates_per_epoch=updates_per_epoch),
        clip_grad_norm=config.clip_grad_norm,
        clip_grad_value=config.clip_grad_value,
        built_for=(total_updates, updates_per_epoch),
    )


def build_schedule(config: ScheduleBaseConfig, *, total_updates: int, updates_per_epoch: int) -> Schedule:
    """Build the schedule that `config` names for a run of this length."""
    schedule: Schedule = component_of(config).target(
        config, total_updates=total_updates, updates_per_epoch=updates_per_epoch
    )
    return schedule


def _scheduled(config: OptimizerBaseConfig, optimizer: Optimizer, **span: int) -> list[Scheduled]:
    schedules = {"lr": config.schedule, "weight_decay": config.weight_decay_schedule}
    found = {key: schedule for key, schedule in schedules.items() if schedule is not None}
    for key in found:
        if key not in optimizer.defaults:
            raise SpecError(
                f"unusable schedule: optimizer '{config.kind}' has no {key}",
                hint=f"remove the schedule of {key}, or choose another optimizer",
            )
    return [Scheduled(key, build_schedule(schedule, **span), optimizer) for key, schedule in found.items()]


def _options(config: OptimizerBaseConfig) -> dict[str, Any]:
    """Return the optimizer's own options, of a config of its own or of one made from its signature."""
    if isinstance(config, SignatureConfig):
        return config.arguments()
    return config.model_dump(exclude=set(OptimizerBaseConfig.model_fields))


def _default(optimizer_class: type[Optimizer], option: str) -> Any:
    parameter = inspect.signature(optimizer_class).parameters.get(option)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _fused_where_possible(
    optimizer_class: type[Optimizer], options: dict[str, Any], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """Ask for torch's fused kernel unless the spec chose an implementation or the parameters do not allow it."""
    chosen = any(options.get(key) is not None for key in ("fused", "foreach"))
    chosen = chosen or any(options.get(key) for key in ("differentiable", "capturable"))
    if chosen or "fused" not in inspect.signature(optimizer_class).parameters:
        return options
    parameters = [parameter for group in groups for parameter in group["params"]]
    allowed = all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in parameters)
    return {**options, "fused": True} if allowed else options


def _construct(
    optimizer_class: type[Optimizer], groups: list[dict[str, Any]], options: dict[str, Any], kind: str
) -> Optimizer:
    if optimizer_class is torch.optim.LBFGS:
        raise SpecError(
            "unsupported optimizer: found 'LBFGS', which evaluates the loss several times an update",
            hint='choose a first-order optimizer, for example kind = "AdamW"',
        )
    try:
        return optimizer_class(groups, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecError(f"wrong options of optimizer '{kind}': {error}") from error
