"""What accumulation steps bring counts only where their update was applied, which is known later."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_READ_EVERY = 256  # steps that wait for the device's word at most, so that a long interval does not hold them all


class AppliedSteps(Generic[T]):
    """Holds what each accumulation step brought until it is known whether its update was applied.

    On the CPU the last step of an update says so. On an accelerator only the device knows; it is asked when somebody
    wants to know, or for many steps at once.
    """

    def __init__(self) -> None:
        self._under_way: list[T] = []
        self._unsure: list[tuple[T, Tensor]] = []

    def add(self, step: T, *, accumulation_steps: int, accumulation_step: int, applied: Tensor | None) -> list[T]:
        """Take what a step brought; return what is known to count by now, in order.

        Args:
            step: What it brought.
            accumulation_steps: Steps of its update.
            accumulation_step: Which of them it is, from 0.
            applied: Whether the update was applied, 1.0 or 0.0 on the device; None if it was.
        """
        if accumulation_step == 0:
            self._under_way = []  # where no last step came, the update was not applied
        self._under_way.append(step)
        if accumulation_step + 1 < accumulation_steps:
            return []
        update, self._under_way = self._under_way, []
        if applied is None:
            return [*self.settle(), *update]
        self._unsure += [(step, applied) for step in update]
        return self.settle() if len(self._unsure) >= _READ_EVERY else []

    def settle(self) -> list[T]:
        """Return what counts of the steps that only the device knew about, in order; one copy to the host."""
        if not self._unsure:
            return []
        unsure, self._unsure = self._unsure, []
        verdicts = torch.stack([applied for _, applied in unsure]).tolist()
        return [step for (step, _), applied in zip(unsure, verdicts, strict=True) if applied]
