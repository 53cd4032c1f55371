"""What happens to an update whose loss or gradient is not finite: it is never applied."""

from __future__ import annotations

import torch
from torch import Tensor

from noether.errors import NonFiniteError


class FiniteGuard:
    """Watches losses and gradients and counts the updates that were skipped for them.

    Args:
        skip: Whether the run goes on after a skipped update.
        max_in_a_row: Skipped updates in a row after which it gives up nevertheless.
    """

    __slots__ = (
        "_found",
        "_losses",
        "_one",
        "in_a_row",
        "max_in_a_row",
        "skip",
        "skipped_updates",
        "was_skipped",
    )

    def __init__(self, *, skip: bool, max_in_a_row: int) -> None:
        self.skip = skip
        self.max_in_a_row = max_in_a_row
        self.in_a_row = 0
        self.skipped_updates = 0
        self.was_skipped = False
        self._losses: list[Tensor] = []
        self._one: Tensor | None = None
        self._found: Tensor | None = None

    def keep(self, loss: Tensor) -> None:
        """Remember the loss of an accumulation step that is not the last of its update."""
        self._losses.append(loss)
        self.was_skipped = not loss.isfinite()  # so that nobody averages it; the verdict on the update comes later

    def admits(self, loss: Tensor, gradients: list[Tensor], *, tolerated: bool = False) -> bool:
        """Return whether the update may be applied, counting it where it may not.

        Looks at everything in one kernel: the one by which torch's GradScaler looks for overflows. Its scale is 1, so
        that it changes nothing.

        Args:
            loss: Total loss of the last accumulation step, detached.
            gradients: All gradients.
            tolerated: A skipped update says nothing against the run: a gradient scaler is looking for its scale.
        """
        if self._found is None or self._one is None:
            self._one = torch.ones((), device=loss.device)
            self._found = torch.zeros((), device=loss.device)
        seen = [*gradients, *self._losses, loss]
        try:
            torch._amp_foreach_non_finite_check_and_unscale_(seen, self._found, self._one)
        except NotImplementedError:
            torch._amp_foreach_non_finite_check_and_unscale_(list(map(_dense, seen)), self._found, self._one)
        self._losses = []
        if self._found:
            self._found.zero_()
            self.in_a_row += not tolerated
            self.skipped_updates += 1
            self.was_skipped = True
        else:
            self.in_a_row = 0
            self.was_skipped = False
        return not self.was_skipped

    def raise_if_given_up(self, update: int, last_checkpoint: str | None) -> None:
        """End the run where a skipped update is one too many.

        Raises:
            NonFiniteError: Skipping is off, or too many updates in a row were skipped.
        """
        if self.in_a_row == 0 or (self.skip and self.in_a_row < self.max_in_a_row):
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
