"""Layout of the batches and results of a captured update, the guard inside of it, and copies of what it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
