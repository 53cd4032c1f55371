"""Agreement of a model and its optimizers: parameters, sizes, and the weights that are trained or evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from noether.core.models.base import ModelBase
from noether.core.models.build import AdaptedModule
from noether.errors import SpecError, TrainingError
from noether.kernel.names import listed
from noether.optim.build import build_optimizer, matching, unfrozen_groups
from noether.optim.kernels import is_sharded

_SHOWN = 8  # names in a message


def require_agreement(model: ModelBase) -> None:
    """Check that the optimizers of a model, if it has any, train exactly its trainable parameters.

    Raises:
        TrainingError: if a trainable parameter is in no optimizer or in two, or a parameter of an optimizer is not in
            the model; names it.
    """
    optimizers = model.optimizers()
    if not optimizers:
        return
    trained: dict[int, str] = {}
    for part, optimizer in optimizers.items():
        optimizer.take_up_groups()
        for name, parameter in zip(optimizer.names, optimizer.parameters, strict=True):
            if id(parameter) in trained:
                raise TrainingError(
                    f"parameter '{name}' of '{part}' is in two optimizers, or twice in one",
                    hint="give each parameter to one optimizer once",
                )
            trained[id(parameter)] = name if len(optimizers) == 1 else f"{part}.{name}"
    own = dict(model.named_parameters())
    present = {id(parameter) for parameter in own.values()}
    lost = [name for key, name in trained.items() if key not in present]
    untrained = [name for name, parameter in own.items() if parameter.requires_grad and id(parameter) not in trained]
    if lost:
        raise _lost(lost, untrained)
    if untrained:
        raise TrainingError(
            f"parameters require gradients and no optimizer trains them: {listed(untrained, _SHOWN)}",
            hint="create layers in the constructor of the model (nn.LazyLinear and its like infer their sizes); call "
            "trainer.unfreeze instead of requires_grad_(True); or freeze them: requires_grad_(False)",
        )


def _lost(lost: list[str], untrained: list[str]) -> TrainingError:
    instead = f"; no optimizer trains {listed(untrained, _SHOWN)}" if untrained else ""
    return TrainingError(
        f"an optimizer trains parameters that are not in the model: {listed(lost, _SHOWN)}{instead}",
        hint="replace layers in the constructor of the model, before the optimizer is built; or copy the new values "
        "into the old parameters under torch.no_grad()",
    )


def state_names(model: nn.Module) -> frozenset[str]:
    """Return the names of parameters and persistent buffers as a checkpoint has them, those that are None as well."""
    return frozenset(_state_names(model, "", set()))


def _state_names(module: nn.Module, prefix: str, seen: set[nn.Module]) -> Iterator[str]:
    seen.add(module)
    for name in [*module._parameters, *(module._buffers.keys() - module._non_persistent_buffers_set)]:
        yield prefix + name
    for name, child in module._modules.items():
        if child is not None and child not in seen:
            yield from _state_names(child, prefix if isinstance(module, AdaptedModule) else f"{prefix}{name}.", seen)


def require_same_names(model: nn.Module, known: frozenset[str], by: str) -> None:
    """Check that the state of a model has the names that a new model has.

    Args:
        model: The model.
        known: Return value of `state_names` for the model as it was built.
        by: Cause of a change, for the error.

    Raises:
        TrainingError: if it does not: a checkpoint of the run would not fit a new model.
    """
    now = state_names(model)
    if now == known:
        return
    changes = {"added": sorted(now - known), "removed": sorted(known - now)}
    found = " and ".join(f"{verb} {listed(names, _SHOWN)}" for verb, names in changes.items() if names)
    raise TrainingError(
        f"{by} has {found}, unlike a new model, so no checkpoint of this run would fit it",
        hint="make layers, buffers and parametrizations in the constructor of the model; a buffer may begin as None: "
        f"self.register_buffer('{min(now - known, default='mean').rpartition('.')[2]}', None)",
    )


def require_sizes(model: nn.Module) -> None:
    """Check that no lazy module waits for its first input: nothing can be counted, loaded or trained before.

    Raises:
        SpecError: if one does; names its layer.
    """
    if layers := lazy_layers(model):
        raise SpecError(
            f"layers of the model have no sizes yet: {listed(layers, _SHOWN)}",
            hint="give sizes to their constructors; or call the model on one batch before training, which has to use "
            "them in its forward",
        )


def lazy_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers that wait for their first input."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in lazy))


def unfreeze(
    model: ModelBase, pattern: str, *, span: tuple[int, int], lr: float | None, weight_decay: float | None
) -> list[str]:
    """Let parameters train from the next update on, in new groups of their part's optimizer.

    Args:
        model: The model.
        pattern: As in a shell: `encoder.*`. Parameters that train already stay as they are.
        span: Total updates and updates of an epoch, for the schedules of an optimizer that does not exist yet.
        lr: Learning rate instead of the optimizer's.
        weight_decay: Weight decay instead of the optimizer's.

    Returns:
        The names of the parameters that were frozen before.

    Raises:
        SpecError: if no parameter matches, or the optimizer lacks one of the options.
    """
    named = dict(model.named_parameters())
    if any(map(is_sharded, named.values())):
        raise SpecError(
            'unfreeze cannot train parameters of a sharded model: found parallel = "fsdp2"',
            hint='train them from the beginning, or set parallel = "replicated" under [trainer]',
        )
    chosen = matching(pattern, named, setting="pattern of unfreeze", of="parameter of the model")
    trained = {id(parameter) for optimizer in model.optimizers().values() for parameter in optimizer.parameters}
    frozen = {id(named[name]): name for name in chosen if id(named[name]) not in trained}
    left = dict(frozen)
    for part in model.optimizer_owners().values():
        members = {name: parameter for name, parameter in part.named_parameters() if left.pop(id(parameter), None)}
        if not members:
            continue
        for parameter in members.values():
            parameter.requires_grad_(True)
        optimizer = part.optimizer.torch_optimizer if part.optimizer else None
        give_groups(part, unfrozen_groups(part.optimizer_config, optimizer, members, lr, weight_decay), span)
    if left:
        raise SpecError(
            f"unfreeze cannot train parameters outside of all parts: {listed(list(left.values()), _SHOWN)}",
            hint=f"move them into one of the parts {', '.join(model.submodels)}",
        )
    return list(frozen.values())


def give_groups(part: ModelBase, groups: list[dict[str, Any]], span: tuple[int, int]) -> None:
    """Add groups with their `names` to the optimizer of a model or part; build it if all was frozen before."""
    if part.optimizer is not None:
        for group in groups:
            part.optimizer.add_group({key: value for key, value in group.items() if key != "names"})
        return
    config = part.required_optimizer_config()
    named = list(part.named_parameters())
    part.optimizer = build_optimizer(
        config,
        named,
        total_updates=span[0],
        updates_per_epoch=span[1],
        find=part.named_parameters,
        given=groups,
    )


def give_saved_optimizers(model: ModelBase, saved: Mapping[str, Mapping[str, Any]], span: tuple[int, int]) -> None:
    """Build the optimizers of parts that were frozen at the start of a saved run, and that it trained later.

    Args:
        model: The model.
        saved: State values of the optimizers by part.
        span: Total updates and updates of an epoch.
    """
    parts = model.optimizer_owners()
    for name in saved.keys() & parts.keys() - model.optimizers().keys():
        named = dict(parts[name].named_parameters())
        groups, added = saved[name]["groups"], saved[name].get("added", [])
        if len(added) != len(groups) or not all(member in named for group in groups for member in group["names"]):
            continue  # another model, which is reported when the state is loaded
        give_groups(
            parts[name],
            [
                {**given, "params": [named[m].requires_grad_(True) for m in group["names"]], "names": group["names"]}
                for group, given in zip(groups, added, strict=True)
            ],
            span,
        )


def begin_training(model: ModelBase, stack: ExitStack) -> None:
    """Give the parameters the weights that are trained, and at the end of the stack those that are evaluated."""
    for optimizer in model.optimizers().values():
        optimizer.begin_training()
    stack.callback(_end_training, model)


def _end_training(model: ModelBase) -> None:
    for optimizer in model.optimizers().values():
        optimizer.end_training()


def evaluation_weights(model: ModelBase) -> Any:
    """Return a context in which the parameters have the weights that are evaluated."""
    stack = ExitStack()
    for optimizer in model.optimizers().values():
        stack.enter_context(optimizer.evaluation_weights())
    return stack
