"""Tracked values of accumulation steps: only those of applied updates, added up in double precision."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

HOLD = 256  # accumulation steps held before they are read or added up: bounds the tensors of a long interval


class AppliedSteps(Generic[T]):
    """Hold the values of accumulation steps until it is known that their update was applied.

    An update is complete with its last accumulation step. If that step never comes, the update was not applied, and its
    values are dropped. With masked updates only the device knows; `read` asks it for many at once.

    Attributes:
        held: Number of the accumulation steps held of complete updates.
    """

    def __init__(self) -> None:
        self.held = 0
        self._under_way: list[T] = []
        self._complete: list[tuple[T, bool | Tensor | None]] = []

    def add(self, values: T, *, accumulation_steps: int, accumulation_step: int, applied: bool | Tensor | None) -> None:
        """Hold the values of one accumulation step.

        Args:
            values: The values.
            accumulation_steps: Number of accumulation steps of the update.
            accumulation_step: Index of this one, from 0.
            applied: The trainer's `verdict`: 1.0 or 0.0 on the device if the host does not know; None is True.
        """
        if accumulation_steps == 1:
            self._complete += ((values, applied),)  # calls nothing: this runs at every update
            self.held += 1
            return
        if accumulation_step == 0:
            self._under_way = []
        self._under_way.append(values)
        if accumulation_step + 1 == accumulation_steps:
            self._complete += [(step, applied) for step in self._under_way]
            self._under_way = []
            self.held = len(self._complete)

    def take(self) -> list[tuple[T, Tensor | None]]:
        """Return the accumulation steps of complete updates, except those known not to be applied; hold them no longer.

        Each has its `applied` if only the device knows it, else None.
        """
        complete, self._complete, self.held = self._complete, [], 0
        return [(values, None if applied is True else applied) for values, applied in complete if applied is not False]

    def read(self) -> list[T]:
        """Return the values of applied updates, in order, with one copy to the host if only the device knows."""
        complete = self.take()
        unread = [applied for _, applied in complete if applied is not None]
        known = iter(torch.stack(unread).tolist() if unread else ())
        return [values for values, applied in complete if applied is None or next(known)]


def precise(tensor: Tensor) -> Tensor:
    """Return the tensor in double precision, both parts of complex numbers; on the CPU if its device (mps) has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).to(
        torch.complex128 if tensor.dtype.is_complex else torch.float64
    )


def summed(values: list[Tensor]) -> float | Tensor:
    """Return the sum of scalars in double precision, so that a mean does not depend on the moments of adding up.

    Scalars in the host's memory give a number: reading them costs less than a tensor operation.
    """
    if values[0].is_cpu and not values[0].dtype.is_complex:
        return sum([value.item() for value in values], 0.0)
    return precise(torch.stack(values)).sum()


def weighted(value: Tensor, weight: float | Tensor) -> Tensor:
    """Return values times their weights, in double precision; 0 for a mean over nothing, which is NaN."""
    value = precise(value)
    times = beside(value, weight)
    return torch.where(times > 0, value * times, 0.0)


def beside(values: Tensor, number: float | Tensor) -> Tensor:
    """Return a number as a tensor beside others; one of the host is filled in there, because a copy would wait."""
    if isinstance(number, Tensor):
        return number.to(values)
    return torch.full((), number, dtype=values.dtype, device=values.device)
