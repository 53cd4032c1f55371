"""Puts a saved state into a torch optimizer, by parameter name; torch's own way goes by position."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from noether.errors import CheckpointError

Options = dict[str, Any]

_ELEMENTWISE = frozenset(
    {"Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SGD", "RMSprop", "Adagrad", "Adadelta", "Rprop"}
)
_SHOWN = 8  # names in a message


def options_of(optimizer: Optimizer) -> list[Options]:
    """Return the options of each group as they are now, to tell later which of them have changed."""
    return [
        {key: _copied(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]


def changed_options(options: Options, given: Options) -> list[str]:
    """Return the options that are not as they were `given`."""
    return sorted(key for key, value in options.items() if key not in given or not _equal(value, given[key]))


def restore_entries(
    optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], plain: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put the state of each parameter in place, on the device where the optimizer wants it.

    Args:
        optimizer: Its own options stay.
        names: Names of its parameters, in the order of its groups.
        tensors: Tensors by `<parameter>/<entry>`.
        plain: Other entries by parameter.
    """
    entries: dict[str, dict[str, Any]] = {name: dict(found) for name, found in plain.items()}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        entries.setdefault(name, {})[entry] = tensor
    _require_shapes(optimizer, names, tensors)
    by_place = {place: entries[name] for place, name in enumerate(names) if name in entries}
    groups = optimizer.param_groups
    optimizer.load_state_dict({**optimizer.state_dict(), "state": by_place})
    for group, replaced in zip(groups, optimizer.param_groups, strict=True):
        group.update(replaced)
    optimizer.param_groups = groups  # torch makes new ones, but the schedules set the values of these
    _undo_casts(optimizer, by_place)


def _require_shapes(optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Check the tensors of optimizers that keep nothing but numbers and tensors of their parameter's shape.

    Others may fit a step by accident, and be broadcast.
    """
    if type(optimizer).__name__ not in _ELEMENTWISE:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = {name: parameter.shape for name, parameter in zip(names, parameters, strict=True)}
    for key, tensor in tensors.items():
        shape = shapes.get(key.rpartition("/")[0])
        if shape is not None and tensor.ndim and tensor.shape != shape:
            raise CheckpointError(
                f"{key} in the optimizer's state of the checkpoint has the shape {tuple(tensor.shape)}, "
                f"its parameter {tuple(shape)}"
            )


def _undo_casts(optimizer: Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Give tensors the type back that they were saved in: torch casts them to that of their parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, entries in saved.items():
        state = optimizer.state[parameters[place]]
        for entry, value in entries.items():
            loaded = state.get(entry)
            if entry != "step" and isinstance(value, Tensor) and isinstance(loaded, Tensor):
                state[entry] = loaded if loaded.dtype is value.dtype else value.to(loaded.device)


def restore_options(optimizer: Optimizer, names: Sequence[str], saved: Sequence[Mapping[str, Any]]) -> None:
    """Put the options back that the saved run had changed since its optimizer was built.

    Args:
        optimizer: Its groups may be others than those that were saved.
        names: Names of its parameters, in the order of its groups.
        saved: The saved groups: `names`, `changed`, and the options.

    Raises:
        CheckpointError: Parameters that form one group now had groups with different options.
    """
    group_of = {name: group for group in saved for name in group["names"]}
    start = 0
    for group in optimizer.param_groups:
        members = names[start : start + len(group["params"])]
        start += len(members)
        found = [{key: group_of[name][key] for key in group_of[name]["changed"]} for name in members]
        if not all(_equal(options, found[0]) for options in found[1:]):
            raise CheckpointError(
                f"the optimizer has one group for {_listed(members)}, but the checkpoint has several for them, whose "
                f"options had changed: {', '.join(sorted({key for options in found for key in options}))}",
                hint="continue with the parameter groups that the run was started with",
            )
        for key, value in found[0].items():
            group[key] = value.to(group[key].device) if isinstance(group.get(key), Tensor) else value


def require_same_class(saved: str | None, optimizer: Optimizer) -> None:
    """Check that a state was made by such an optimizer: another one has entries of other names and meanings.

    Args:
        saved: Name of the class; None where the checkpoint does not say.
        optimizer: The optimizer that is to go on with the state.

    Raises:
        CheckpointError: It was made by another one.
    """
    if saved is not None and saved != type(optimizer).__name__:
        raise CheckpointError(
            f"the optimizer is {type(optimizer).__name__}, but the checkpoint has the state of {saved}",
            hint=f'continue with kind = "{saved}", or take the weights alone with initializer kind = "checkpoint"',
        )


def require_same_names(saved: Collection[str], names: Collection[str]) -> None:
    """Check that a state is for these parameters.

    Raises:
        CheckpointError: It is for others; the message names them.
    """
    missing, unknown = sorted(set(names) - set(saved)), sorted(set(saved) - set(names))
    parts = [
        *([f"it has nothing for {_listed(missing)}"] if missing else []),
        *([f"it has a state for {_listed(unknown)}, which does not train here"] if unknown else []),
    ]
    if parts:
        raise CheckpointError(
            f"the optimizer's state in the checkpoint is for other parameters: {'; '.join(parts)}",
            hint="continue with the model and the `frozen` patterns that the run was started with, or take the weights "
            'alone with initializer kind = "checkpoint"',
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _equal(one: Any, other: Any) -> bool:
    """Compare options, which may be tensors, or tuples and dicts of them."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)
