"""Non-finite updates on an accelerator: masked where they are found, and counted at the next boundary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from noether.training.loop.finite import TOLERATED_ABOVE, FiniteGuard
from noether.training.loop.masking import MomentumStart, takes_found_inf

MASKING_DEVICES = frozenset({"cuda"})
"""Devices that the host would have to wait for, and whose fused optimizers are known to leave a masked update out."""

_FOLD = 256  # flags kept one by one before they become one tensor


def finite_guard(device: torch.device, *, skip: bool, max_in_a_row: int) -> FiniteGuard:
    """Return the guard of a run on `device`; the other arguments are those of `FiniteGuard`."""
    kind = DeviceGuard if device.type in MASKING_DEVICES else FiniteGuard
    return kind(skip=skip, max_in_a_row=max_in_a_row)


class DeviceGuard(FiniteGuard):
    """Leaves the decision on the device, as torch's GradScaler does, so that the host waits at boundaries only.

    Every update goes to the optimizers, with a flag on the device that masks it in their kernels. The flags are kept
    there until `read` copies all of them to the host at once and counts them just as if it had looked each time. So a
    run gives up for the same update, but at the boundary that reads it; what came in between is in no checkpoint,
    because a checkpoint reads the flags first.

    The host looks at an update, as `FiniteGuard` does, where an optimizer takes no flag or a mask would harm it.
    """

    __slots__ = ("_flags", "_gave_up_at", "_is_masking", "_momentum_start", "_updates")

    def __init__(self, *, skip: bool, max_in_a_row: int) -> None:
        super().__init__(skip=skip, max_in_a_row=max_in_a_row)
        self._is_masking = False
        self._momentum_start = MomentumStart([])
        self._flags: list[Tensor] = []
        self._updates = 0
        self._gave_up_at: int | None = None

    def adopt(self, optimizers: Sequence[Optimizer]) -> None:
        """Take note of the optimizers that are going to apply the updates."""
        self._is_masking = bool(optimizers) and all(map(takes_found_inf, optimizers))
        self._momentum_start = MomentumStart(optimizers)

    def keep(self, loss: Tensor) -> None:
        """Remember the loss of an accumulation step that is not the last of its update."""
        if not self._is_masking:
            super().keep(loss)
            return
        self._losses.append(loss)
        self.was_skipped = False
        self.applied = loss.isfinite().float()  # so that nobody averages it; the verdict on the update comes later

    def admits(self, loss: Tensor, gradients: list[Tensor], scaler: torch.amp.GradScaler | None = None) -> bool:
        """Return whether the update may be applied; with a `mask`, its optimizers find out in their kernels."""
        self._updates += 1
        self._defers = self._is_masking and not self._momentum_start.is_near()
        if not self._defers:
            self.read()  # the updates before this one are counted before it
            self.mask = self.applied = None
            return super().admits(loss, gradients, scaler)
        super().admits(loss, gradients, scaler)
        self._defer(scaler)
        return True

    def _defer(self, scaler: torch.amp.GradScaler | None) -> None:
        """Keep what was found in an update for `read`, and mask the update by it."""
        found, self._found = self._found, None  # the next update gets a tensor of its own
        assert found is not None, "it was looked for before"
        # 0.0 where the update is finite; otherwise 1.0, with a scaler plus its scale in that update.
        self._flags.append(found if scaler is None else found + scaler.scale(found))
        if len(self._flags) == _FOLD:
            self._flags = [torch.hstack(self._flags)]
        self.mask, self.applied = found, 1.0 - found
        self.was_skipped = False
        self.waiting = True

    def read(self) -> None:
        """Copy the flags to the host, all at once, and count them up to the one that ends the run."""
        if not self._flags:
            return
        flags = torch.hstack(self._flags).tolist()
        self._flags = []
        for update, flag in enumerate(flags, start=self._updates - len(flags) + 1):
            if self._gave_up_at is not None:
                return
            if flag:
                self._count_skipped(tolerated=flag > 1.0 + TOLERATED_ABOVE)
                self._gave_up_at = update if self._is_too_much else None
            else:
                self.in_a_row = 0

    def raise_if_given_up(self, update: int, last_checkpoint: str | None) -> None:
        """Read the flags, and end the run where a skipped update was one too many.

        Raises:
            NonFiniteError: Skipping is off, or too many updates in a row were skipped.
        """
        self.read()
        self.waiting = False
        since = 0 if self._gave_up_at is None else self._updates - self._gave_up_at
        self._gave_up_at = None
        super().raise_if_given_up(update - since, last_checkpoint)
