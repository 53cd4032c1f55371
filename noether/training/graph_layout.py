"""Updates as graphs: layout of batches and results, the guard in a graph, calls of compiled code without guards."""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from noether.metrics.device import Graph
from noether.training.another_form import UnfitError
from noether.training.nonfinite import FiniteGuard


class Place(NamedTuple):
    """Place of a tensor in a list."""

    number: int


class Unreadable:
    """Stands for a value of a batch that is not a tensor: a graph would take that of one batch for all others."""

    def __init__(self, kind: type) -> None:
        self.__dict__["kind"] = kind

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UnfitError(f"the train step reads a {self.__dict__['kind'].__name__} of the batch, not a tensor")

    __getattr__ = __getitem__ = __len__ = __iter__ = __bool__ = __call__ = __eq__ = __hash__ = _refuse
    __int__ = __float__ = __index__ = __add__ = __radd__ = __mul__ = __rmul__ = __str__ = __contains__ = _refuse


def laid_out(value: Any, tensors: list[Tensor]) -> Any:
    """Return a value with places instead of tensors, which are appended to a list; of a batch, as a key of its shape.

    Numbers and objects that are not tensors differ from batch to batch; their types stand in the key.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.dtype
    if type(value) is dict:
        return tuple([(name, laid_out(part, tensors)) for name, part in value.items()])
    return tuple([laid_out(part, tensors) for part in value]) if type(value) in (list, tuple) else type(value)


def refilled(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a batch with other tensors, and nothing readable instead of other values."""
    if isinstance(value, Tensor):
        return next(tensors)
    if type(value) is dict:
        return {name: refilled(part, tensors) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(refilled(part, tensors) for part in value)
    return None if value is None else Unreadable(type(value))


def placed(value: Any, tensors: list[Tensor], name: str = "") -> Any:
    """Return a result with places instead of tensors, which are appended to a list.

    Raises:
        UnfitError: if a part may hold tensors in a way that cannot be copied.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        return Place(len(tensors) - 1)
    if type(value) is dict:
        return {key: placed(part, tensors, f" '{key}'") for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(placed(part, tensors, name) for part in value)
    if value is None or isinstance(value, bool | int | float | complex | str):
        return value
    raise UnfitError(f"the output{name} is a {type(value).__name__}, expected tensors, numbers, dicts and lists")


def filled(value: Any, tensors: Sequence[Any]) -> Any:
    """Return the result of `placed` with tensors in their places."""
    kind = type(value)
    if kind is Place:
        return tensors[value.number]
    if kind is dict:
        return {key: filled(value[key], tensors) for key in value}
    return kind(filled(part, tensors) for part in value) if kind in (list, tuple) else value


class GraphGuard(FiniteGuard):
    """Guard of an update that is captured: it decides on the device alone, and counts nothing.

    Attributes:
        flag: 0.0 if the update is finite; otherwise 1.0, with a scaler plus its scale in that update.
    """

    __slots__ = ("flag",)

    def __init__(self, skip: bool) -> None:
        super().__init__(skip=skip, max_in_a_row=1)
        self.flag: Tensor | None = None

    def keep(self, loss: Tensor) -> None:
        """Remember the loss of an accumulation step that is not the last of its update."""
        self._losses.append(loss)
        self.applied = loss.isfinite().float()

    def admits(self, loss: Tensor, gradients: list[Tensor], scaler: torch.amp.GradScaler | None = None) -> bool:
        """Set the mask of the optimizers; return True."""
        found, one = torch.zeros((), device=loss.device), torch.ones((), device=loss.device)
        torch._amp_foreach_non_finite_check_and_unscale_([*gradients, *self._losses, loss], found, one)
        self._losses = []
        self.flag = found if scaler is None else found + scaler.scale(found)
        self.mask, self.applied = found, 1.0 - found
        return True


class Copies:
    """Tensors of a graph, copied out after each replay: all numbers of one type with one kernel.

    Args:
        tensors: The tensors; called within the capture.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._whole = [place for place, tensor in enumerate(tensors) if tensor.ndim]
        numbers: dict[torch.dtype, list[int]] = {}
        for place, tensor in enumerate(tensors):
            if not tensor.ndim:
                numbers.setdefault(tensor.dtype, []).append(place)
        self._packed = [(places, torch.stack([tensors[p] for p in places])) for places in numbers.values()]

    def taken(self) -> list[Tensor]:
        """Return copies of the tensors, which later replays leave alone."""
        tensors = self._tensors.copy()
        for places, packed in self._packed:
            for place, number in zip(places, packed.clone().unbind(), strict=True):
                tensors[place] = number
        for place in self._whole:
            tensors[place] = tensors[place].clone()
        return tensors


@dataclass(slots=True)
class Captured:
    """A captured update.

    Attributes:
        graph: The graph.
        inputs: The tensors that it reads a batch from.
        copies: The tensors that it leaves.
        results: Losses, outputs, weights of losses and `applied` of each accumulation step, then flag and mask of the
            update and the gradient norms of its optimizers; with places instead of tensors.
    """

    graph: Graph
    inputs: list[Tensor]
    copies: Copies
    results: Any


_PURE = (
    *("BINARY_OP", "BINARY_SUBSCR", "BUILD_", "CACHE", "CALL", "COPY", "DELETE_FAST", "EXTENDED_ARG", "KW_NAMES"),
    *("LIST_EXTEND", "LOAD_", "MAKE_CELL", "NOP", "NOT_TAKEN", "POP_TOP", "PRECALL", "PUSH_NULL", "RESUME", "RETURN_"),
    *("STORE_FAST", "SWAP", "UNPACK_SEQUENCE"),
)
"""Beginnings of the names of instructions that change nothing but the frame of their function."""
_NOTES = ("record_pregraph_bytecode_enter", "record_pregraph_bytecode_exit")  # calls that dynamo adds to its code
_SETS = "object_setattr_ignore_descriptor"  # by which it sets attributes
_SETTLED = frozenset({*sys.stdlib_module_names, "torch"})


class Recorded:
    """Compiled code that remembers the tensors of its last call.

    Args:
        code: The code: takes a flat list of tensors, and returns another one.
    """

    def __init__(self, code: Callable[..., Any]) -> None:
        self.code = code
        self.inputs: tuple[Any, ...] = ()
        self.results: Sequence[Any] = ()

    def __call__(self, *inputs: Any) -> Any:
        """Run the code."""
        self.inputs, self.results = inputs, self.code(*inputs)
        return self.results

    def forget(self) -> None:
        """Let the tensors go."""
        self.inputs, self.results = (), ()


class Unguarded:
    """A call of compiled code as its last call through guards was, with other fresh tensors.

    Args:
        code: The code.
        inputs: Its inputs in that call.
        places: Place of each fresh tensor among the inputs; None for one that the code does not read.
        fresh: The fresh tensors of that call.
        result: The result of that call, with places among the results of the code.
    """

    def __init__(
        self,
        code: Callable[..., Any],
        inputs: Sequence[Any],
        places: Sequence[int | None],
        fresh: Sequence[Tensor],
        result: Any,
    ) -> None:
        self._code, self._inputs, self._result = code, list(inputs), result
        self._places = list(places)
        self._layouts = [_layout(tensor) for tensor in fresh]
        for place in places:
            if place is not None:
                self._inputs[place] = None

    def __call__(self, fresh: Sequence[Tensor]) -> Any:
        """Run the code on fresh tensors; None, and nothing is done, if one is laid out in another way."""
        layouts = self._layouts
        if len(fresh) != len(layouts):
            return None
        inputs = self._inputs.copy()
        for tensor, layout, place in zip(fresh, layouts, self._places, strict=True):
            if _layout(tensor) != layout:
                return None
            if place is not None:
                inputs[place] = tensor
        return filled(self._result, self._code(*inputs))


def unguarded(recorded: Recorded, fresh: Sequence[Tensor], lasting: Iterable[Tensor], result: Any) -> Unguarded | None:
    """Return the last call of a code, to do it again without guards; None if it is not known what else it read.

    Args:
        recorded: The code, with the tensors of that call.
        fresh: Tensors that each call has of its own.
        lasting: Tensors that stay the same objects from call to call.
        result: What the call has returned.
    """
    inputs, results = recorded.inputs, recorded.results
    places = {id(tensor): place for place, tensor in enumerate(inputs)}
    known = {id(tensor) for tensor in (*lasting, *fresh)}
    if len({id(tensor) for tensor in fresh}) < len(fresh) or not places.keys() <= known:
        return None
    leaves: list[Tensor] = []
    try:
        layout = placed(result, leaves)
    except UnfitError:
        return None
    numbers = {id(tensor): number for number, tensor in enumerate(results)}
    if not all(id(leaf) in numbers for leaf in leaves):
        return None
    found = filled(layout, [Place(numbers[id(leaf)]) for leaf in leaves])
    return Unguarded(recorded.code, inputs, [places.get(id(tensor)) for tensor in fresh], fresh, found)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (
        *(type(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad),
        *(tensor.is_inference(), tensor.is_conj(), tensor.is_neg()),
    )


def changed_by(code: types.CodeType, read: Sequence[str] | None = None) -> str | None:
    """Name the first change that code of dynamo makes apart from those of tensors; None if it only computes.

    Args:
        code: The code: calls one compiled function.
        read: Sources of all that it has read: attributes that it only sets, as outputs, do not count. None to count
            them.
    """
    instructions = [one for one in dis.get_instructions(code) if one.opname != "CACHE"]
    names = [one.argval if one.opname.startswith("LOAD_") else None for one in instructions]
    attributes = [_attribute_set(instructions[place:]) for place, name in enumerate(names) if name == _SETS]
    calls = sum(one.opname.startswith("CALL") for one in instructions)
    is_known = calls == 1 + len(attributes) + sum(name in _NOTES for name in names)
    if not is_known or not all(one.opname.startswith(_PURE) for one in instructions):
        return "objects of Python"
    for name in attributes:
        if read is None or any(source.endswith((f".{name}", f"['{name}']")) for source in read):
            return f"the attribute '{name}'"
    return None


def _attribute_set(instructions: Sequence[dis.Instruction]) -> str:
    """Return the name in the arguments of a call, object, name and value; other constants are keys of the object."""
    for one, following in pairwise(instructions):
        if one.opname == "LOAD_CONST" and isinstance(one.argval, str) and not following.opname.startswith("BINARY_"):
            return one.argval
    return "?"


def is_settled(value: Any, owners: Sequence[Any]) -> bool:
    """Return True if an object that was read can change by hooks only, which are looked out for.

    The counters of a run change with each update, and so may any object of a class that is not known here.

    Args:
        value: The object.
        owners: Objects that count as modules do.
    """
    if isinstance(value, nn.Module | Enum | type) or any(value is owner for owner in owners):
        return True
    return type(value).__module__.partition(".")[0] in _SETTLED
