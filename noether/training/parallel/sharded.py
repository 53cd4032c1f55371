"""FSDP2: each rank holds a share of every parameter, and gathers those of one module while it computes."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _NormBase

from noether.core.models.build import named_modules
from noether.core.models.recompute import recomputed
from noether.errors import SpecError, error_text
from noether.optim.build import matching
from noether.training.parallel.one import Parallel

LARGE = 1 << 24
"""Parameters of a module that is gathered by itself by default: 64 MiB in float32, for which bandwidth decides."""
_REPLICATED = 'or set parallel = "replicated" under [trainer]'


def shard(model: nn.Module, config: Any, ranks: Parallel, device: torch.device) -> nn.Module:
    """Divide the parameters of a model among the ranks, in place, and return it; they become DTensors.

    Each module that `shard` names, or each large one, is gathered by itself before it computes, and released after it;
    all other parameters are gathered together. All ranks begin with the parameters of rank 0.

    Args:
        model: The model, before its optimizers are built. Where all ranks but rank 0 have it without values, no rank
            ever has all of it on its device.
        config: The trainer's config, with `shard`, `precision` and `use_torch_compile`.
        ranks: The ranks.
        device: Device of the run.

    Raises:
        SpecError: if the model or the settings do not allow it.
    """
    _require_settings(model, config)
    is_mixed = config.precision in ("bfloat16", "bf16")
    units = _named_units(model, config.shard) if config.shard is not None else _large_units(model)
    known = {id(unit) for _, unit in units}
    norms = {id(module): (name, module) for name, module in named_modules(model) if is_mixed and _needs_single(module)}
    units += [norm for key, norm in norms.items() if key not in known]
    _require_whole_units(model, units)
    _require_same(model, ranks)
    _require_one_type(model, units)
    mesh = init_device_mesh(device.type, (ranks.world,))
    are_skeletons = all(ranks.gather(ranks.is_writer or all(tensor.is_meta for tensor in _tensors(model))))
    values = list(map(Tensor.detach, _tensors(model)))
    before = {name: weakref.ref(parameter) for name, parameter in model.named_parameters()}
    if are_skeletons:
        model.to("meta")
    else:
        model.to(device)
        _from_writer(_tensors(model), values, device)
    for name, unit in [*reversed(units), ("the model", model)]:
        policy = _policy(is_mixed=is_mixed and not _needs_single(unit))
        try:
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        except (ValueError, NotImplementedError, RuntimeError, AssertionError) as error:
            raise _refusal(f"{name} cannot be sharded: {error_text(error)}") from error
    if are_skeletons:
        model.to_empty(device=device)
        _from_writer(_tensors(model), values, device)
    assert isinstance(model, FSDPModule), "sharded just now"
    _require_released(before)
    model.set_reduce_scatter_unused_params(True)  # else ranks that use different ones would add up different gradients
    return model


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


@torch.no_grad()
def _from_writer(tensors: Sequence[Tensor], values: Sequence[Tensor], device: torch.device) -> None:
    """Give tensors, or the parts of them that this rank holds, the values of rank 0, one tensor after the other."""
    for tensor, value in zip(tensors, values, strict=True):
        whole = torch.empty_like(value, device=device) if value.is_meta else value.to(device)
        dist.broadcast(whole, 0)
        if isinstance(tensor, DTensor):
            share = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
            tensor.to_local().copy_(share.to_local())
        else:
            tensor.copy_(whole)


def _needs_single(module: nn.Module) -> bool:
    """Return True for a norm with running statistics, whose kernel takes parameters of the same type only."""
    return isinstance(module, _NormBase) and module.affine and module.running_mean is not None


def _policy(*, is_mixed: bool) -> MixedPrecisionPolicy:
    """Return the types of gathered parameters and of added gradients; autocast converts what modules compute with."""
    if is_mixed:
        return MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    return MixedPrecisionPolicy(cast_forward_inputs=False)


def _require_settings(model: nn.Module, config: Any) -> None:
    has_own_step = callable(getattr(model, "train_step", None))
    settings = {
        "a model with a train_step of its own": (has_own_step, "let the trainer compute the loss"),
        f"precision = {config.precision!r}": (config.precision in ("float16", "fp16"), 'set precision = "bf16"'),
        "use_torch_compile = true": (config.use_torch_compile, "remove it"),
    }
    _refuse(settings)


def _refuse(settings: Mapping[str, tuple[bool, str]]) -> None:
    for setting, (found, hint) in settings.items():
        if found:
            raise SpecError(
                f'wrong setting beside parallel = "fsdp2": found {setting}, which sharded models do not support',
                hint=f"{hint}, {_REPLICATED}",
            )


def require_shardable(trainer: Any) -> None:
    """Check that a trainer, its callbacks built, works with a sharded model.

    Raises:
        SpecError: if it does not.
    """
    settings = {
        "a trainer with an `update` of its own": (trainer.has_own_update, "choose another trainer"),
        "asynchronous = true under [checkpoints]": (trainer.checkpoint_writer.asynchronous, "remove it"),
    }
    _refuse(settings)


def _named_units(model: nn.Module, patterns: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """Return the modules that match the patterns, in the order of the model; those within another one are left out."""
    modules = {name: module for name, module in named_modules(model) if name and _is_called(module)}
    found: set[str] = set()
    for pattern in patterns:
        found.update(matching(pattern, modules, setting="`shard` pattern", of="module of the model"))
    chosen = [(name, modules[name]) for name in modules if name in found and _holds_parameters(modules[name])]
    inner = {id(part) for _, module in chosen for part in module.modules() if part is not module}
    return [(name, module) for name, module in chosen if id(module) not in inner]


def _large_units(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the smallest modules that are large, without those that share parameters with others."""
    units: dict[int, tuple[str, nn.Module]] = {}
    places = _places(model)
    named = [(name, module) for name, module in named_modules(model) if name]
    for name, module in reversed(named):  # inner ones first
        taken = {id(p) for inner in module.modules() if id(inner) in units for p in inner.parameters()}
        size = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in taken)
        if size >= LARGE and _is_called(module) and not _splits_tie(module, places):
            units[id(module)] = name, module
    return [units[id(module)] for _, module in named if id(module) in units]


def _is_called(module: nn.Module) -> bool:
    """Return False for containers such as `nn.ModuleList`, whose children are called one by one."""
    return type(module).forward is not nn.Module.forward


def _holds_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _slots(module: nn.Module) -> Iterator[Tensor]:
    """Yield each parameter as often as a module holds it."""
    for part in module.modules():
        yield from (parameter for parameter in part._parameters.values() if parameter is not None)


def _places(module: nn.Module) -> Counter[int]:
    return Counter(map(id, _slots(module)))


def _splits_tie(unit: nn.Module, places: Counter[int]) -> bool:
    """Return True if a parameter of a module is also one of a module outside of it."""
    return any(places[key] != count for key, count in _places(unit).items())


def _require_whole_units(model: nn.Module, units: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse units that would part tied parameters, and units within a module that is recomputed as a whole."""
    places, again = _places(model), recomputed(model)
    for name, unit in units:
        if _splits_tie(unit, places):
            raise _refusal(
                f"'{name}' would be gathered by itself, and shares a parameter with another module",
                "name a module around both, or leave it out",
            )
        outer = [other for other in again if name.startswith(f"{other}.")]
        if outer:
            raise _refusal(
                f"'{name}' would be gathered by itself within '{outer[0]}', which [model] checkpoint recomputes",
                f"name '{outer[0]}' in `shard`",
            )


def _require_same(model: nn.Module, ranks: Parallel) -> None:
    """Refuse ranks with different tensors, before one gets those of rank 0."""
    named = [*model.named_parameters(), *model.named_buffers()]
    own = {name: f"{tensor.dtype} of shape {tuple(tensor.shape)}" for name, tensor in named}
    facts = ranks.gather(own)
    for rank, found in enumerate(facts):
        for name in found.keys() | facts[0].keys():
            if found.get(name) != facts[0].get(name):
                raise _refusal(
                    f"rank {rank} has built another model than rank 0: found {found.get(name)} for '{name}', expected "
                    f"{facts[0].get(name)}",
                    "let the constructor of the model ask for no devices and ranks",
                )


def _require_released(before: Mapping[str, weakref.ref[Parameter]]) -> None:
    """Refuse a model that holds parameters in other places than its modules: they would stay as they are there."""
    gc.collect()
    held = []
    for name, reference in before.items():
        parameter = reference()  # torch itself may hold it, for the gradients of a tensor that is made anew
        if parameter is not None and any(not isinstance(by, FrameType) for by in gc.get_referrers(parameter)):
            held.append(name)
    if held:
        raise _refusal(
            f"something beside its modules holds the whole parameters {', '.join(held[:5])}",
            "read parameters from their modules in forward, and hold none in a list or a closure",
        )


def _require_one_type(model: nn.Module, units: Sequence[tuple[str, nn.Module]]) -> None:
    """Refuse parameters without elements, and those of several types that would be gathered together."""
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            raise _refusal(f"the parameter '{name}' has no elements", "remove it")
    taken: set[int] = set()
    for name, unit in [*units, ("", model)]:
        own = {key: p for key, p in unit.named_parameters() if id(p) not in taken and p.requires_grad}
        taken.update(map(id, unit.parameters()))
        first = {p.dtype: key for key, p in reversed(own.items())}
        if len(first) > 1:
            shown = ", ".join(
                f"{dtype} ('{name}.{key}')" if name else f"{dtype} ('{key}')" for dtype, key in first.items()
            )
            raise _refusal(
                f"parameters of several types would be gathered together: found {shown}",
                "name the modules of one of the types in `shard`",
            )


def _refusal(text: str, hint: str = "name other modules in `shard`") -> SpecError:
    return SpecError(f'wrong model for parallel = "fsdp2": {text}', hint=f"{hint}, {_REPLICATED}")
