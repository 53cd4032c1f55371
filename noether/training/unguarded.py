"""Calls of compiled code without its guards, while nothing that the guards look at can have changed."""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from noether.training.another_form import UnfitError
from noether.training.graph_layout import Place, filled, placed

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
