"""What happens to an update whose loss or gradient is not finite: it is never applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noether.errors import NonFiniteError

TOLERATED_ABOVE = 1.0
"""Scale of a gradient scaler above which an overflow is its normal way to find a lower one."""


class FiniteGuard:
    """Watches losses and gradients and counts the updates that were skipped for them.

    This one looks at every update, which waits for an accelerator; see `DeviceGuard` for one that does not.

    Args:
        skip: Whether the run goes on after a skipped update.
        max_in_a_row: Skipped updates in a row after which it gives up nevertheless.

    Attributes:
        in_a_row: Updates that were skipped since the last one that was applied.
        skipped_updates: All updates that were skipped.
        was_skipped: Whether the last update was; of one that goes on, whether it is going to be.
        applied: None where `was_skipped` says it; otherwise 1.0 or 0.0 on the device, and `was_skipped` is False.
        mask: What its optimizers have to be masked with, the opposite of `applied`; None where the host has decided.
        waiting: Whether a boundary has to ask `raise_if_given_up` before anything is written.
    """

    __slots__ = (
        "_defers",
        "_found",
        "_losses",
        "_one",
        "applied",
        "in_a_row",
        "mask",
        "max_in_a_row",
        "skip",
        "skipped_updates",
        "waiting",
        "was_skipped",
    )

    def __init__(self, *, skip: bool, max_in_a_row: int) -> None:
        self.skip = skip
        self.max_in_a_row = max_in_a_row
        self.in_a_row = 0
        self.skipped_updates = 0
        self.was_skipped = False
        self.applied: Tensor | None = None
        self.mask: Tensor | None = None
        self.waiting = False
        self._losses: list[Tensor] = []
        self._one: Tensor | None = None
        self._found: Tensor | None = None
        self._defers = False  # nobody looks at what is found in this update

    def adopt(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Take note of the optimizers that are going to apply the updates."""

    def keep(self, loss: Tensor) -> None:
        """Remember the loss of an accumulation step that is not the last of its update."""
        self._losses.append(loss)
        self.was_skipped = not loss.isfinite()  # so that nobody averages it; the verdict on the update comes later

    def admits(self, loss: Tensor, gradients: list[Tensor], scaler: torch.amp.GradScaler | None = None) -> bool:
        """Return whether the update may be applied, counting it where it may not.

        Looks at everything in one kernel: the one by which torch's GradScaler looks for overflows. Its scale is 1, so
        that it changes nothing.

        Args:
            loss: Total loss of the last accumulation step, detached.
            gradients: All gradients.
            scaler: The gradient scaler that the gradients were unscaled by. Overflows are how it finds its scale: an
                update that it skips says nothing against the run until there is nothing left to scale down.
        """
        if self._one is None:
            self._one = torch.ones((), device=loss.device)
        if self._found is None:
            self._found = torch.zeros((), device=loss.device)
        seen = [*gradients, *self._losses, loss]
        try:
            torch._amp_foreach_non_finite_check_and_unscale_(seen, self._found, self._one)
        except NotImplementedError:
            torch._amp_foreach_non_finite_check_and_unscale_(list(map(_dense, seen)), self._found, self._one)
        self._losses = []
        if self._defers:
            return True
        if self._found:
            self._found.zero_()
            self._count_skipped(tolerated=scaler is not None and scaler.get_scale() > TOLERATED_ABOVE)
            self.was_skipped = True
        else:
            self.in_a_row = 0
            self.was_skipped = False
        return not self.was_skipped

    def read(self) -> None:
        """Count what was found on the device, so that `in_a_row` and `skipped_updates` hold; here they always do."""

    def _count_skipped(self, *, tolerated: bool) -> None:
        self.in_a_row += not tolerated
        self.skipped_updates += 1

    @property
    def _is_too_much(self) -> bool:
        return self.in_a_row > 0 and not (self.skip and self.in_a_row < self.max_in_a_row)

    def raise_if_given_up(self, update: int, last_checkpoint: str | None) -> None:
        """End the run where a skipped update is one too many.

        Raises:
            NonFiniteError: Skipping is off, or too many updates in a row were skipped.
        """
        if not self._is_too_much:
            return
        first = update - self.in_a_row + 1
        many = f"{self.in_a_row} updates in a row from update {first} on" if self.in_a_row > 1 else f"update {first}"
        kept = f"the last checkpoint is {last_checkpoint}" if last_checkpoint else "there is no checkpoint yet"
        hint = "lower the learning rate, set clip_grad_norm under [model.optimizer], or look for NaN in the data"
        if not self.skip:
            hint += "; skip_nan_loss = true under [trainer] goes on without such updates"
        raise NonFiniteError(
            f"the loss or a gradient is not finite in {many}; these were not applied, and {kept}", hint=hint
        )


def _dense(tensor: Tensor) -> Tensor:
    """Return the numbers of a sparse or complex tensor, for a kernel that takes neither."""
    values = tensor._values() if tensor.is_sparse else tensor
    return torch.view_as_real(values) if values.is_complex() else values
