"""Outputs of models by field: tensors, mappings, dataclasses, tuples; comparisons of them that broadcast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from noether.errors import TrainingError


def by_field(output: Any, places: Mapping[str, str | int] | None = None) -> Any:
    """Return the parts of a model's output in a dict by field; an output without named parts stays as it is.

    Args:
        output: Return value of a model.
        places: Place of each field in it, as in `outputs` of a trainer's config.

    Raises:
        TrainingError: if the output lacks a place.
    """
    parts = _named_parts(output)
    if not places:
        return output if parts is None else parts
    return {**(parts or {}), **{field: _at(output, place, field) for field, place in places.items()}}


def _named_parts(output: Any) -> dict[str, Any] | None:
    """Return the parts that have names; None if the output has none."""
    if isinstance(output, Mapping):
        return dict(output)
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    return None


def _at(output: Any, place: str | int, field: str) -> Any:
    """Return the part at a place: a key, an attribute, an index, or a path of them."""
    found = output
    parts = [place] if isinstance(place, int) or (isinstance(found, Mapping) and place in found) else place.split(".")
    for part in parts:
        try:
            found = _part(found, part)
        except (LookupError, AttributeError, ValueError) as error:
            raise TrainingError(
                f"wrong place of field '{field}' in the output of the model: found {described(output)}, expected "
                f"{place!r} in it",
                hint=f'correct it in the trainer: outputs = {{ {field} = "…" }}',
            ) from error
    return found


def _part(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value[part]
    if isinstance(value, list | tuple) and not (isinstance(part, str) and hasattr(value, part)):
        return value[int(part)]
    return getattr(value, str(part))


def described(output: Any) -> str:
    """Describe an output for a message: its type, and the names or the number of its parts."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    parts = _named_parts(output)
    if parts is not None:
        return f"{type(output).__name__} with {', '.join(map(str, parts)) or 'nothing'}"
    if isinstance(output, list | tuple):
        return f"{type(output).__name__} of {', '.join(map(described, output)) or 'nothing'}"
    return type(output).__name__


_COMPARISONS = frozenset(["sub", "subtract", "rsub", "sub_", "mul", "multiply", "div", "divide"])
_LOSSES = frozenset(["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])


class NoBroadcasting(TorchFunctionMode):
    """Refuse that a loss compares every sample with every other: (batch, 1) and (batch,) are (batch, batch) then.

    It looks at losses of torch, and at differences, products and quotients of a target with what depends on a
    parameter. A comparison of all pairs that a loss asks for, `a[:, None] - b[None]`, has a dimension more.

    Args:
        output: Output of the model.
        targets: Target properties of the batch.
    """

    def __init__(self, output: Any = None, targets: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        found = [tensor for tensor in (targets or {}).values() if isinstance(tensor, Tensor)]
        self._places = {_storage(tensor) for tensor in found}
        self._ndim = max((tensor.ndim for tensor in [*found, *_tensors(output)]), default=0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function after a look at the shapes of its operands."""
        name = getattr(func, "__name__", "")
        if name in _LOSSES or (self._places and name in _COMPARISONS):
            operands = [value for value in [*args, *(kwargs or {}).values()] if isinstance(value, Tensor)][:2]
            if len(operands) == 2 and operands[0].shape != operands[1].shape:
                self._look_at(name, *operands)
        return func(*args, **(kwargs or {}))

    def _look_at(self, name: str, one: Tensor, other: Tensor) -> None:
        try:
            shape = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]  # untyped in torch
        except RuntimeError:
            return  # torch says it
        if shape.numel() <= max(one.numel(), other.numel()) or not (one.requires_grad or other.requires_grad):
            return
        is_target = [_storage(tensor) in self._places for tensor in (one, other)]
        if name not in _LOSSES and (is_target[0] is is_target[1] or len(shape) > self._ndim):
            return
        raise TrainingError(
            f"wrong shapes in the loss: found {tuple(one.shape)} and {tuple(other.shape)}, which broadcast to "
            f"{tuple(shape)}, so that every sample is compared with every other; expected equal shapes",
            hint="reshape one of them: y.unsqueeze(-1), or output.squeeze(-1); or set `different_shapes = True` on the "
            "trainer's class, if its loss means to",
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    parts = value if isinstance(value, list | tuple) else (_named_parts(value) or {}).values()
    for part in parts:
        yield from _tensors(part)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)
