"""Build the torch optimizer of `[model.optimizer]`: parameter groups, options, schedules."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from noether.config.base import component_of, construct, construction_of
from noether.config.components import OptimizerBaseConfig, ParameterGroupConfig, ScheduleBaseConfig
from noether.config.signature import SignatureConfig, call_with_options
from noether.errors import SpecError, placed
from noether.kernel.entries import ROLES
from noether.kernel.roles import is_of_torch, result_problem
from noether.optim.kernels import with_implementation
from noether.optim.model_optimizer import ModelOptimizer
from noether.optim.optimizer_state import Traits, requires_closure
from noether.optim.schedules import Schedule, Scheduled
from noether.optim.trial import traits_of

_SHOWN = 4  # names in a hint
_COMPARED = 1000  # names that the nearest are chosen of


def matching(pattern: str, names: Collection[str], *, setting: str, of: str) -> list[str]:
    """Return the names that match `pattern`, in their order.

    Args:
        pattern: As in a shell: `encoder.*`, `*.bias`.
        names: Names of parameters or modules.
        setting: Place of the pattern in the spec, for the message.
        of: Kind of the names, for the message: "parameter of the model", "module of the model".

    Raises:
        SpecError: if no name matches.
    """
    matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not matched:
        shown = ", ".join(difflib.get_close_matches(pattern, list(names)[:_COMPARED], n=_SHOWN, cutoff=0.0))
        kind = "modules" if of.startswith("module") else "parameters"
        raise SpecError(
            f"{setting} matches nothing: found {pattern!r}, expected a pattern of a {of}",
            hint=f"{kind} have names such as {shown}" if shown else f"the model has no {kind} to name",
        )
    return matched


@dataclass(frozen=True, slots=True)
class GroupDefaults:
    """Options of parameters that no group of the spec changes.

    Attributes:
        weight_decay: The optimizer's weight decay; None for an optimizer that has none.
        decay_bias_and_norm: True if parameters with fewer than two dimensions decay as well.
        lr: The optimizer's learning rate; None if it cannot be scaled.
    """

    weight_decay: float | None
    decay_bias_and_norm: bool = False
    lr: float | None = None


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    defaults: GroupDefaults,
    groups: Sequence[ParameterGroupConfig] = (),
    *,
    checked: bool = True,
) -> list[dict[str, Any]]:
    """Split trainable parameters by the spec's groups, and each part into decaying and other parameters.

    Parameters with fewer than two dimensions (biases, scales of norms) are not decayed by default: shrinking
    them towards zero regularises nothing and hurts normalised layers. That holds for a group with a `weight_decay` of
    its own as well, so that `encoder.*` can name a whole encoder; set `decay_bias_and_norm` in the group to decay them.

    Args:
        named_parameters: Parameters by name; those that are frozen are left out.
        defaults: Options of parameters that no group changes.
        groups: The spec's groups.
        checked: False if the parameters are only some of those that the spec's groups are about.

    Returns:
        Groups in the form that torch optimizers take, each with its parameter names under `"names"`: first the
        parameters that no group of the spec names, then the spec's groups in their order.

    Raises:
        SpecError: if a group has no effect, or sets an option that the optimizer lacks.
    """
    trainable = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
    owners = _owners(list(trainable), groups, checked=checked)
    result = []
    for index in range(-1, len(groups)):
        members = {name: parameter for name, parameter in trainable.items() if owners.get(name, -1) == index}
        if index >= 0:
            result += _split(members, defaults, groups[index], checked=checked)
        else:
            result += _by_decay(members, defaults, {})
    return result


def _owners(names: Sequence[str], groups: Sequence[ParameterGroupConfig], *, checked: bool) -> dict[str, int]:
    """Return the group of each parameter that a group names: the first that matches it."""
    owners: dict[str, int] = {}
    for index, group in enumerate(groups if names else ()):
        for pattern in group.match:
            if not checked:
                for name in fnmatch.filter(names, pattern):
                    owners.setdefault(name, index)
                continue
            setting = f"`match` pattern of optimizer group {index + 1}"
            with placed("groups", index):
                matched = matching(pattern, names, setting=setting, of="trainable parameter of the model")
            if all(owner < index for owner in [owners.setdefault(name, index) for name in matched]):
                raise SpecError(
                    f"{setting} has no effect: {pattern!r} matches only parameters of earlier groups",
                    hint="put narrower patterns first: a parameter belongs to the first group that matches",
                )
    return owners


def _split(
    members: Mapping[str, nn.Parameter], defaults: GroupDefaults, group: ParameterGroupConfig, *, checked: bool
) -> list[dict[str, Any]]:
    """Return the torch groups of one group of the spec."""
    options: dict[str, Any] = {}
    if group.lr_scale != 1.0:
        if defaults.lr is None:
            raise SpecError(
                "lr_scale of an optimizer group has no effect: the optimizer has no lr", hint="remove lr_scale"
            )
        options["lr"] = defaults.lr * group.lr_scale
    if group.weight_decay is not None:
        if defaults.weight_decay is None:
            raise SpecError(
                "weight_decay of an optimizer group has no effect: the optimizer has no weight_decay",
                hint="remove weight_decay from the group",
            )
        options["weight_decay"] = group.weight_decay
    asked = group.decay_bias_and_norm
    own = GroupDefaults(
        weight_decay=defaults.weight_decay if group.weight_decay is None else group.weight_decay,
        decay_bias_and_norm=defaults.decay_bias_and_norm if asked is None else asked,
    )
    if checked and group.weight_decay and not any(_decays(parameter, own) for parameter in members.values()):
        raise SpecError(
            f"weight_decay of optimizer group {group.match} has no effect: it names only biases and norms, which "
            "do not decay",
            hint="add decay_bias_and_norm = true to the group, or remove its weight_decay",
        )
    return _by_decay(members, own, options)


def _by_decay(
    members: Mapping[str, nn.Parameter], defaults: GroupDefaults, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return up to two torch groups: the parameters that decay, and those that do not."""
    groups = []
    for decayed in (True, False):
        chosen = {name: p for name, p in members.items() if _decays(p, defaults) is decayed}
        if chosen:
            group = {**options, "params": list(chosen.values()), "names": list(chosen)}
            groups.append(group if decayed else {**group, "weight_decay": 0.0})
    return groups


def _decays(parameter: nn.Parameter, defaults: GroupDefaults) -> bool:
    """Return True if weight decay applies to it; without any decay, all parameters are treated alike."""
    return defaults.decay_bias_and_norm or parameter.ndim >= 2 or not defaults.weight_decay


def build_optimizer(
    config: OptimizerBaseConfig,
    named_parameters: Sequence[tuple[str, nn.Parameter]],
    *,
    total_updates: int,
    updates_per_epoch: int,
    find: Callable[[], Iterable[tuple[str, nn.Parameter]]] | None = None,
    given: Sequence[dict[str, Any]] = (),
    sparse: Collection[str] = (),
) -> ModelOptimizer:
    """Build the optimizer that `config` names, with its groups, clipping and schedules.

    Args:
        config: A config whose own fields are the optimizer's options.
        named_parameters: The model's parameters with their names; frozen ones are left out.
        total_updates: Updates of the whole run, for the schedules.
        updates_per_epoch: Updates in one epoch, for the schedules.
        find: Return the model's parameters by name, for groups that are added later; unset, these parameters.
        given: Groups with their `names`, instead of those of the spec; they count as added during the run.
        sparse: Names of parameters with sparse gradients.

    Raises:
        SpecError: if nothing is trainable, a group or an option does not fit, or torch refuses the options.
    """
    optimizer_class = component_of(config).target
    options = _options(config)
    groups = list(given) or parameter_groups(named_parameters, _defaults(config), config.groups)
    trainable = _trainable(groups)
    if config.clip_grad_value is not None:
        _require_real(trainable)
    implementation = partial(with_implementation, optimizer_class, options, sparse=sparse)
    build = partial(_construct, optimizer_class, options=implementation(trainable), kind=config.kind)
    optimizer = build(groups)
    name_of = {id(parameter): name for name, parameter in trainable.items()}  # a function may have regrouped them
    if is_of_torch(type(optimizer)):
        traits = Traits(requires_closure(optimizer), implementation=implementation)
    else:
        traits = traits_of(optimizer, build, implementation)
    _require_closable(config, traits)
    return ModelOptimizer(
        optimizer,
        names=[name_of.get(id(p), "one of its own") for group in optimizer.param_groups for p in group["params"]],
        scheduled=_scheduled(config, optimizer, total_updates=total_updates, updates_per_epoch=updates_per_epoch),
        clip_grad_norm=config.clip_grad_norm,
        clip_grad_value=config.clip_grad_value,
        built_for=(total_updates, updates_per_epoch),
        find=find or (lambda: named_parameters),
        traits=traits,
        added=len(given),
    )


def _trainable(groups: list[dict[str, Any]]) -> dict[str, nn.Parameter]:
    """Take the names out of parameter groups; return the parameters by name.

    Raises:
        SpecError: if there are none.
    """
    if not groups:
        raise SpecError(
            "the model has no trainable parameters, expected at least one", hint="loosen `frozen` under [model]"
        )
    names = [name for group in groups for name in group.pop("names")]
    return dict(zip(names, (parameter for group in groups for parameter in group["params"]), strict=True))


def unfrozen_groups(
    config: OptimizerBaseConfig | None,
    optimizer: Optimizer | None,
    members: Mapping[str, nn.Parameter],
    lr: float | None,
    weight_decay: float | None,
) -> list[dict[str, Any]]:
    """Return groups for parameters that begin to train during a run, by the rules of the spec's groups.

    Args:
        config: Config of their optimizer; None if it was made by hand.
        optimizer: Their optimizer, if there is one.
        members: The parameters by name.
        lr: Learning rate instead of the optimizer's.
        weight_decay: Weight decay instead of the optimizer's.

    Raises:
        SpecError: if the optimizer lacks one of the options.
    """
    if config is not None:
        own = _defaults(config)
    else:
        options = optimizer.defaults if optimizer is not None else {}
        own = GroupDefaults(options.get("weight_decay"), lr=options.get("lr"))
    given = {"lr": lr, "weight_decay": weight_decay}
    for option, value in given.items():
        if value is not None and getattr(own, option) is None:
            raise SpecError(f"unfreeze cannot set {option}: the optimizer has no {option}", hint=f"leave out {option}")
    defaults = GroupDefaults(
        own.weight_decay if weight_decay is None else weight_decay,
        own.decay_bias_and_norm,
        own.lr if lr is None else lr,
    )
    ruled = [group for group in (config.groups if config else []) if _matches_any(group, members)]
    groups = parameter_groups(members.items(), defaults, ruled, checked=False)
    for group in groups:
        for option, value in given.items():
            if value is not None:
                group.setdefault(option, value)
    return groups


def _matches_any(group: ParameterGroupConfig, names: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in group.match for name in names)


def _defaults(config: OptimizerBaseConfig) -> GroupDefaults:
    """Return the options of parameters that no group of the spec changes."""
    optimizer_class, options = component_of(config).target, _options(config)
    return GroupDefaults(
        weight_decay=options.get("weight_decay", _default(optimizer_class, "weight_decay")),
        decay_bias_and_norm=config.decay_bias_and_norm,
        lr=options.get("lr", _default(optimizer_class, "lr")),
    )


def _require_closable(config: OptimizerBaseConfig, traits: Traits) -> None:
    """Refuse options that act between the backward pass and an optimizer step that calls the backward pass itself."""
    clipping = [name for name in ("clip_grad_norm", "clip_grad_value") if getattr(config, name) is not None]
    if traits.takes_closure and clipping:
        raise SpecError(
            f"{clipping[0]} does not fit optimizer '{config.kind}', which evaluates the loss several times an update "
            "and needs its exact gradients",
            hint=f"remove {clipping[0]}",
        )


def _require_real(parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise SpecError(
                f"clip_grad_value of the optimizer does not fit parameter '{name}': found {parameter.dtype}, expected "
                "real numbers, which have an order",
                hint="set clip_grad_norm instead",
            )


def build_schedule(config: ScheduleBaseConfig, *, total_updates: int, updates_per_epoch: int) -> Schedule:
    """Build the schedule that `config` names for a run of this length."""
    length = {"total_updates": total_updates, "updates_per_epoch": updates_per_epoch}
    if not isinstance(config, SignatureConfig):
        built: Schedule = construct(config, **length)
        return built
    target = component_of(config).target
    taken = inspect.signature(target).parameters
    with construction_of(config):
        schedule: Schedule = call_with_options(
            target, config.arguments() | {name: value for name, value in length.items() if name in taken}
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
    scheduled = []
    for key, schedule in found.items():
        with placed("schedule" if key == "lr" else f"{key}_schedule"):
            scheduled.append(Scheduled(key, build_schedule(schedule, **span), optimizer.param_groups))
    return scheduled


def _options(config: OptimizerBaseConfig) -> dict[str, Any]:
    """Return the optimizer's own options, of a config of its own or of one made from its signature."""
    if isinstance(config, SignatureConfig):
        return config.arguments()
    return config.model_dump(exclude=set(OptimizerBaseConfig.model_fields))


def _default(optimizer_class: type[Optimizer], option: str) -> Any:
    parameter = inspect.signature(optimizer_class).parameters.get(option)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _construct(
    optimizer_class: type[Optimizer], groups: list[dict[str, Any]], *, options: dict[str, Any], kind: str
) -> Optimizer:
    try:
        made: Optimizer = call_with_options(optimizer_class, options, groups)
    except OSError as error:  # torch makes the folder of its compiler with the first optimizer
        raise SpecError(
            f"optimizer '{kind}' cannot be made: {error}",
            hint="TORCHINDUCTOR_CACHE_DIR names the folder that torch keeps compiled code in: it has to be writable",
        ) from error
    except Exception as error:  # a class or function of the user may raise any
        raise SpecError(f"wrong options of optimizer '{kind}': {error}") from error
    if (problem := result_problem(ROLES["optimizer"], made)) is not None:
        raise SpecError(f"the optimizer '{kind}' {problem}")
    return made
