"""State of torch optimizers: its parts by parameter name, checks before it is loaded, and options that changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from noether.errors import CheckpointError, SpecError
from noether.kernel.names import listed

Options = dict[str, Any]

_OF_TORCH = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "SGD", "RMSprop", "Adagrad", "Adadelta", "Rprop")
_ELEMENTWISE = frozenset(getattr(torch.optim, name) for name in _OF_TORCH)
_SHOWN = 8  # names in a message


@dataclass(frozen=True, slots=True)
class Traits:
    """Needs of an optimizer, beside gradients.

    Attributes:
        takes_closure: True if its optimizer step evaluates the loss itself.
        trial: State after one optimizer step on copies of a few parameters; None for an optimizer of torch.
        attributes: Attributes that an optimizer step changes and no `state_dict` returns; a checkpoint holds them.
        implementation: Return the options that choose torch's kernels for some parameters.
    """

    takes_closure: bool = False
    trial: Mapping[str, Any] | None = None
    attributes: tuple[str, ...] = ()
    implementation: Callable[[Mapping[str, nn.Parameter]], Options] = lambda _: {}


def requires_closure(optimizer: Optimizer) -> bool:
    """Return True if the optimizer step has a required argument: a function that evaluates the loss."""
    parameters = inspect.signature(optimizer.step).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """The `state_dict` of a torch optimizer without its groups.

    Attributes:
        entries: State of each parameter by its place in the groups.
        whole: State under keys of the optimizer's own.
        own: Further keys of a `state_dict` that the class defines itself.
    """

    entries: Mapping[int, Any]
    whole: Mapping[Any, Any]
    own: Mapping[str, Any]

    @classmethod
    def of(cls, optimizer: Optimizer) -> OptimizerState:
        """Return the state of an optimizer; nothing is copied.

        Raises:
            SpecError: if a key of the optimizer's own is a number, which `state_dict` mistakes for a parameter.
        """
        numbers = [key for key in optimizer.state if isinstance(key, int)]
        if numbers:
            raise SpecError(
                f"wrong key in the state of {type(optimizer).__name__}: found the number {numbers[0]}, expected text: "
                "its state_dict has the places of parameters as numbers",
                hint="use a text as key",
            )
        packed = optimizer.state_dict()
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        state = packed.get("state", {})
        entries = {key: value for key, value in state.items() if isinstance(key, int) and key < count}
        return cls(
            entries,
            whole={key: value for key, value in state.items() if key not in entries},
            own={key: value for key, value in packed.items() if key not in ("state", "param_groups")},
        )


def is_flat(entry: Any, value: Any) -> bool:
    """Return True for a tensor whose entry can be part of its name in a file of tensors."""
    return isinstance(value, Tensor) and isinstance(entry, str) and "/" not in entry


def plain_part(state: Any) -> Any:
    """Return the state of one parameter without the tensors that have names of their own."""
    if not isinstance(state, dict):
        return state
    return {entry: value for entry, value in state.items() if not is_flat(entry, value)}


class NamedEntries:
    """Entries of an optimizer's state under the names of parameters; the names are put together once.

    They are made again if a parameter gets an entry, loses one, or an entry gets another type.
    """

    def __init__(self) -> None:
        self._structure: tuple[list[Any], ...] = ()
        self._names: list[str | None] = []
        self._with_plain: list[int] = []

    def split(
        self, entries: Mapping[int, Any], names: Sequence[str], prefix: str = ""
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors as `<prefix><parameter>/<entry>`, and by parameter all other entries, if it has some.

        Args:
            entries: State of each parameter by its place.
            names: Names of the parameters.
            prefix: Begin of the tensors' names.
        """
        states = [state for state in entries.values() if isinstance(state, dict)]
        values = list(chain.from_iterable(map(dict.values, states)))
        places = [prefix], list(names), list(entries), list(map(type, entries.values())), list(map(len, states))
        structure = *places, list(chain.from_iterable(states)), list(map(type, values))
        if structure != self._structure:
            self._structure = structure
            self._names = [
                f"{prefix}{names[place]}/{entry}" if is_flat(entry, value) else None
                for place, state in entries.items()
                if isinstance(state, dict)
                for entry, value in state.items()
            ]
            self._with_plain = [
                place for place, state in entries.items() if plain_part(state) or not isinstance(state, dict)
            ]
        tensors = {name: value for name, value in zip(self._names, values, strict=True) if name is not None}
        return tensors, {names[place]: plain_part(entries[place]) for place in self._with_plain}


def options_of(groups: Sequence[Options]) -> list[Options]:
    """Return a copy of the options of each group, to find later changes."""
    return [{key: copied(value) for key, value in group.items() if key != "params"} for group in groups]


def members_of(optimizer: Optimizer) -> list[list[int]]:
    """Return the parameters of each group as numbers that can be compared."""
    return [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]


def changed_options(options: Options, given: Options) -> list[str]:
    """Return the options that differ from `given`."""
    return sorted(key for key, value in options.items() if key not in given or not _equal(value, given[key]))


def restore_entries(
    optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Load the state of each parameter, on the device that the optimizer needs, and that of the whole optimizer.

    Args:
        optimizer: Its own options stay.
        names: Names of its parameters, in the order of its groups.
        tensors: Tensors by `<parameter>/<entry>`.
        values: Other entries by parameter under `state`, and the other parts of an `OptimizerState`, if there are any.
    """
    entries: dict[str, Any] = {
        n: dict(found) if isinstance(found, dict) else found for n, found in values["state"].items()
    }
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        entries.setdefault(name, {})[entry] = tensor
    _require_shapes(optimizer, names, tensors)
    by_place = {place: entries[name] for place, name in enumerate(names) if name in entries}
    current = optimizer.state_dict()
    state = {**by_place, **_on_device_of(optimizer.param_groups, values.get("whole", {}))}
    optimizer.load_state_dict(
        {**current, **values.get("own", {}), **({"state": state} if state or "state" in current else {})}
    )
    _undo_casts(optimizer, by_place)


def _on_device_of(groups: Sequence[Options], whole: Mapping[Any, Any]) -> dict[Any, Any]:
    """Move tensors to the device of the parameters; single numbers stay, since they work with tensors anywhere."""
    device = groups[0]["params"][0].device
    return {
        key: value.to(device) if isinstance(value, Tensor) and value.ndim else value for key, value in whole.items()
    }


def _require_shapes(optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Check the tensors of optimizers that keep nothing but numbers and tensors of their parameter's shape.

    Others may fit an optimizer step by accident, and be broadcast.
    """
    if type(optimizer) not in _ELEMENTWISE:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shapes = {name: parameter.shape for name, parameter in zip(names, parameters, strict=True)}
    for key, tensor in tensors.items():
        shape = shapes.get(key.rpartition("/")[0])
        if shape is not None and tensor.ndim and tensor.shape != shape:
            raise CheckpointError(
                f"wrong shape of {key} in the optimizer's state: found {tuple(tensor.shape)}, expected "
                f"{tuple(shape)} as of its parameter"
            )


def _undo_casts(optimizer: Optimizer, saved: Mapping[int, Any]) -> None:
    """Give tensors the type back that they were saved in: torch casts them to that of their parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, entries in saved.items():
        state = optimizer.state.get(parameters[place])
        if not isinstance(entries, dict) or not isinstance(state, dict):
            continue
        for entry, value in entries.items():
            loaded = state.get(entry)
            if entry != "step" and isinstance(value, Tensor) and isinstance(loaded, Tensor):
                state[entry] = loaded if loaded.dtype is value.dtype else value.to(loaded.device)


def restore_attributes(optimizer: Optimizer, attributes: Mapping[str, Any]) -> None:
    """Set attributes of an optimizer; a tensor is filled in place, because it may share its memory with another."""
    for name, value in attributes.items():
        current = getattr(optimizer, name, None)
        if isinstance(current, Tensor) and isinstance(value, Tensor) and current.shape == value.shape:
            current.copy_(value)
        else:
            setattr(optimizer, name, value)


def restore_options(optimizer: Optimizer, names: Sequence[str], saved: Sequence[Mapping[str, Any]]) -> None:
    """Put the options back that the saved run had changed since its optimizer was built.

    Args:
        optimizer: Its groups may be others than those that were saved.
        names: Names of its parameters, in the order of its groups.
        saved: The saved groups: `names`, `changed`, and the options.

    Raises:
        CheckpointError: if parameters of one group had different options.
    """
    group_of = {name: group for group in saved for name in group["names"]}
    start = 0
    for group in optimizer.param_groups:
        members = names[start : start + len(group["params"])]
        start += len(members)
        found = [{key: group_of[name][key] for key in group_of[name]["changed"]} for name in members]
        if not all(_equal(options, found[0]) for options in found[1:]):
            raise CheckpointError(
                f"wrong optimizer groups: found one group for {listed(members, _SHOWN)}, expected several as in the "
                f"checkpoint, which differ in {', '.join(sorted({key for options in found for key in options}))}",
                hint="continue with the parameter groups that the run was started with",
            )
        for key, value in found[0].items():
            group[key] = value.to(group[key].device) if isinstance(group.get(key), Tensor) else value


def require_same_class(saved: str | None, optimizer: Optimizer) -> None:
    """Check that a state was made by such an optimizer: another one has entries of other names and meanings.

    Args:
        saved: Name of the class; None if the checkpoint does not have it.
        optimizer: The optimizer that will take the state.

    Raises:
        CheckpointError: if another optimizer made it.
    """
    if saved is not None and saved != type(optimizer).__name__:
        raise CheckpointError(
            f"wrong optimizer: found {type(optimizer).__name__}, expected {saved} as in the checkpoint",
            hint=f'continue with kind = "{saved}", or take the weights alone with initializer kind = "checkpoint"',
        )


def require_same_names(saved: Collection[str], names: Collection[str]) -> None:
    """Check that a state is for these parameters.

    Raises:
        CheckpointError: if it is for others; names them.
    """
    missing, unknown = sorted(set(names) - set(saved)), sorted(set(saved) - set(names))
    parts = [
        *([f"missing {listed(missing, _SHOWN)}"] if missing else []),
        *([f"not expected {listed(unknown, _SHOWN)}"] if unknown else []),
    ]
    if parts:
        raise CheckpointError(
            f"the optimizer's state in the checkpoint is for other parameters: {'; '.join(parts)}",
            hint="continue with the model and the `frozen` patterns that the run was started with, or take the weights "
            'alone with initializer kind = "checkpoint"',
        )


def copied(value: Any) -> Any:
    """Return a copy of a value that may be changed in place."""
    return value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)


def _equal(one: Any, other: Any) -> bool:
    """Compare options, which may be tensors, or tuples and dicts of them."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(one == other)
