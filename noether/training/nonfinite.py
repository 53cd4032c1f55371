"""Non-finite updates: guards that keep them from being applied, and masks in the optimizers' kernels."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from noether.core.models.base import ModelBase
from noether.errors import NonFiniteError
from noether.metrics.device import LateReads, Transfer
from noether.optim.kernels import single, strided

TOLERATED_ABOVE = 1.0
"""Scale of a gradient scaler above which an overflow is its normal way to find a lower one."""


class FiniteGuard:
    """Guard of losses and gradients; counts the updates that were skipped because of them.

    This one looks at every update, which waits for an accelerator; see `DeviceGuard` for one that does not.

    Args:
        skip: True if the run continues after a skipped update.
        max_in_a_row: Skipped updates in a row after which the run gives up nevertheless.

    Attributes:
        in_a_row: Updates that were skipped since the last one that was applied.
        skipped_updates: All updates that were skipped.
        was_skipped: True if the last update was skipped; within an update, if its last accumulation step makes it so.
        applied: 1.0 on the device if the last update was applied, else 0.0; before the last accumulation step, 1.0 if
            that accumulation step's loss is finite. None before the first update. It is read, never changed.
        mask: Mask of the optimizers, the opposite of `applied`; None if the host has decided (`was_skipped`).
        waiting: True if a boundary has to call `raise_if_given_up` before anything is written.
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
        self._defers = False  # True if the host does not read the verdict of this update

    def adopt(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Remember the optimizers that apply the updates."""

    def keep(self, loss: Tensor) -> None:
        """Remember the loss of an accumulation step that is not the last of its update."""
        self._losses.append(loss)
        self.was_skipped = not loss.isfinite()  # so that no callback averages it; the verdict on the update comes later
        self.applied = torch.zeros_like(loss) if self.was_skipped else torch.ones_like(loss)

    @property
    def kept(self) -> Sequence[Tensor]:
        """The losses of accumulation steps of the update under way."""
        return self._losses

    def forget(self) -> None:
        """Forget the losses of an update that was not finished."""
        self._losses = []

    def admits(self, loss: Tensor, gradients: list[Tensor], scaler: torch.amp.GradScaler | None = None) -> bool:
        """Return True if the update may be applied; count it otherwise.

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
            self.applied = torch.zeros_like(self._one)
        else:
            self.in_a_row = 0
            self.was_skipped = False
            self.applied = self._one
        return not self.was_skipped

    def count_from(self, in_a_row: int) -> None:
        """Go on after a number of skipped updates in a row."""
        self.in_a_row = in_a_row

    def read(self) -> None:
        """Count the updates that the device has masked; without a flag on the device, the counts are complete."""

    def send(self, late: LateReads, verdict: Callable[[], object]) -> None:
        """Send flags of the device to the host; without one, there is nothing to send.

        Args:
            late: The queue of values on their way.
            verdict: Called once they are counted; it may end the run.
        """

    def _count_skipped(self, *, tolerated: bool) -> None:
        self.in_a_row += not tolerated
        self.skipped_updates += 1

    @property
    def _is_too_much(self) -> bool:
        return self.in_a_row > 0 and not (self.skip and self.in_a_row < self.max_in_a_row)

    def raise_if_given_up(self, update: int, last_checkpoint: str | None, *, waits: bool = True) -> None:
        """End the run if too many updates were skipped.

        Args:
            update: Completed updates.
            last_checkpoint: The last checkpoint, for the message.
            waits: False to go by the flags that have been counted.

        Raises:
            NonFiniteError: if skipping is off, or too many updates in a row were skipped.
        """
        if not self._is_too_much:
            return
        first = update - self.in_a_row + 1
        many = f"{self.in_a_row} updates in a row from update {first} on" if self.in_a_row > 1 else f"update {first}"
        kept = f"the last checkpoint is {last_checkpoint}" if last_checkpoint else "there is no checkpoint yet"
        hint = "lower the learning rate, set clip_grad_norm under [model.optimizer], or look for NaN in the data"
        if not self.skip:
            hint += "; skip_nan_loss = true under [trainer] skips such updates"
        raise NonFiniteError(f"the loss or a gradient is not finite in {many}; {kept}", hint=hint)


def _dense(tensor: Tensor) -> Tensor:
    """Return the numbers of a sparse or complex tensor, for a kernel that takes neither."""
    values = strided(tensor)
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def takes_found_inf(optimizer: Optimizer) -> bool:
    """Return True if an optimizer reads `found_inf` in the kernel of its optimizer step."""
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    if "grad_scaler" in inspect.signature(optimizer.step).parameters:  # an older agreement, without `found_inf`
        return False
    return all(group.get("fused", True) for group in optimizer.param_groups)


def step_masked(model: ModelBase, optimizers: Sequence[Optimizer], mask: Tensor) -> None:
    """Do the optimizer step, unless `mask` is 1.0; then parameters and states stay as they are.

    No gradient scaler takes part: the gradients are unscaled, and its own mask would cover one optimizer at a time. On
    a device with graphs, the optimizers read their learning rates as a graph does, so that both give the same bits.

    Args:
        model: The model.
        optimizers: Its torch optimizers, all of which take `found_inf`.
        mask: 0.0 or 1.0 on the device.
    """
    for optimizer in optimizers:
        optimizer.found_inf, optimizer.grad_scale = mask, None  # type: ignore[attr-defined]  # torch's agreement
    groups = [group for one in optimizers for group in one.param_groups] if mask.device.type in ROUNDING_DEVICES else []
    rates = [group["lr"] for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        if type(rate) is float:
            group["lr"] = single(rate)
    try:
        model.optimizer_step()
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        for optimizer in optimizers:
            del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]  # as above


class MomentumStart:
    """Detects when fused SGD begins a momentum, which it must not do in a masked optimizer step.

    Such an optimizer step makes the buffer and leaves it uninitialised, and the next one goes on with what is in it.

    Args:
        optimizers: All optimizers; those without a momentum are never a reason.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._starting = [optimizer for optimizer in optimizers if isinstance(optimizer, SGD)]

    def is_near(self) -> bool:
        """Return True if a parameter with a gradient has no momentum yet."""
        if not self._starting:
            return False
        self._starting = [optimizer for optimizer in self._starting if not _has_momentum(optimizer, everywhere=True)]
        return not all(_has_momentum(optimizer, everywhere=False) for optimizer in self._starting)


def _has_momentum(optimizer: SGD, *, everywhere: bool) -> bool:
    """Return True if the parameters have the momentum that they need: all, or only those with gradients."""
    return all(
        optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        for group in optimizer.param_groups
        if group["momentum"]
        for parameter in group["params"]
        if everywhere or parameter.grad is not None
    )


MASKING_DEVICES = frozenset({"cuda"})
"""Devices that the host would have to wait for, and whose fused optimizers are known to leave a masked update out."""

ROUNDING_DEVICES = frozenset({"cuda"})
"""Devices with graphs, whose fused kernels read a learning rate from a tensor of float32."""

_FOLD = 256  # flags kept one by one before they become one tensor


def finite_guard(device: torch.device, *, skip: bool, max_in_a_row: int) -> FiniteGuard:
    """Return the guard of a run on `device`; the other arguments are those of `FiniteGuard`."""
    kind = DeviceGuard if device.type in MASKING_DEVICES else FiniteGuard
    return kind(skip=skip, max_in_a_row=max_in_a_row)


class DeviceGuard(FiniteGuard):
    """Guard that leaves the decision on the device, as torch's GradScaler does; the host waits at boundaries only.

    Every update goes to the optimizers, with a flag on the device that masks it in their kernels. The flags are kept
    there until `send` copies all of them to the host at once, without waiting, and they are counted when they have
    arrived, just as if the host had looked each time. So a run gives up for the same update, but at a later boundary;
    what came in between is in no checkpoint, because a checkpoint waits for the flags first, and not in its metrics.

    The host looks at an update, as `FiniteGuard` does, if an optimizer takes no flag or a mask would harm it.
    """

    __slots__ = ("_flags", "_gave_up_at", "_is_masking", "_momentum_start", "_sent", "_updates")

    def __init__(self, *, skip: bool, max_in_a_row: int) -> None:
        super().__init__(skip=skip, max_in_a_row=max_in_a_row)
        self._is_masking = False
        self._momentum_start = MomentumStart([])
        self._flags: list[Tensor] = []
        self._sent: deque[tuple[int, Tensor, Transfer]] = deque()  # updates at that time, flags, and their way
        self._updates = 0
        self._gave_up_at: int | None = None

    def adopt(self, optimizers: Sequence[Optimizer]) -> None:
        """Remember the optimizers that apply the updates."""
        self._is_masking = bool(optimizers) and all(map(takes_found_inf, optimizers))
        self._momentum_start = MomentumStart(optimizers)

    def keep(self, loss: Tensor) -> None:
        """Remember the loss of an accumulation step that is not the last of its update."""
        if not self._is_masking:
            super().keep(loss)
            return
        self._losses.append(loss)
        self.was_skipped = False
        self.applied = loss.isfinite().float()  # so that no callback averages it; the verdict on the update comes later

    def admits(self, loss: Tensor, gradients: list[Tensor], scaler: torch.amp.GradScaler | None = None) -> bool:
        """Return True if the update may be applied; with a `mask`, the optimizers decide in their kernels."""
        self._defers = self._is_masking and not self._momentum_start.is_near()
        if not self._defers:
            self.read()  # the updates before this one are counted before it
            self.mask = None
        self._updates += 1
        is_admitted = super().admits(loss, gradients, scaler)
        if self._defers:
            self._defer(scaler)
        return is_admitted

    def _defer(self, scaler: torch.amp.GradScaler | None) -> None:
        """Keep the flag of an update for `read`, and mask the update by it."""
        found, self._found = self._found, None  # the next update gets a tensor of its own
        assert found is not None, "it was looked for before"
        # 0.0 if the update is finite; otherwise 1.0, with a scaler plus its scale in that update.
        self._keep(found if scaler is None else found + scaler.scale(found))
        self.mask, self.applied = found, 1.0 - found

    def _keep(self, flag: Tensor) -> None:
        self._flags.append(flag)
        if len(self._flags) == _FOLD:
            self._flags = [torch.hstack(self._flags)]
        self.was_skipped = False
        self.waiting = True

    def count_masked(self, flag: Tensor, mask: Tensor, applied: Tensor) -> None:
        """Count an update that a graph has masked by itself.

        Args:
            flag: 0.0 if it is finite; otherwise 1.0, with a scaler plus its scale in that update.
            mask: 1.0 if it was not applied, else 0.0.
            applied: The opposite.
        """
        self._updates += 1
        self._keep(flag)
        self.mask, self.applied = mask, applied

    def send(self, late: LateReads, verdict: Callable[[], object]) -> None:
        """Send the flags to the host, all at once and without waiting; they are counted once they are there.

        Args:
            late: The queue of values on their way.
            verdict: Called once they are counted; it may end the run.
        """
        self.waiting = False
        if self._flags:
            sent = self._send()
            late.add(sent[2], partial(self._arrived, sent, verdict), once=True)

    def _send(self) -> tuple[int, Tensor, Transfer]:
        transfer = Transfer()
        sent = self._updates, transfer.send(torch.hstack(self._flags)), transfer
        self._flags = []
        self._sent.append(sent)
        return sent

    def _arrived(self, sent: tuple[int, Tensor, Transfer], verdict: Callable[[], object]) -> None:
        while self._sent and self._sent[0][0] <= sent[0]:
            self._count(*self._sent.popleft()[:2])
        verdict()

    def read(self) -> None:
        """Count the flags, up to the one that ends the run; waits for them."""
        if self._flags:
            self._send()[2].end()
        while self._sent:
            updates, flags, transfer = self._sent[0]
            transfer.wait()
            self._count(updates, flags)
            self._sent.popleft()

    def _count(self, updates: int, flags: Tensor) -> None:
        found = flags.tolist()
        for update, flag in enumerate(found, start=updates - len(found) + 1):
            if self._gave_up_at is not None:
                return
            if flag:
                self._count_skipped(tolerated=flag > 1.0 + TOLERATED_ABOVE)
                self._gave_up_at = update if self._is_too_much else None
            else:
                self.in_a_row = 0

    def raise_if_given_up(self, update: int, last_checkpoint: str | None, *, waits: bool = True) -> None:
        """End the run if too many updates were skipped; see `FiniteGuard.raise_if_given_up`.

        Raises:
            NonFiniteError: if skipping is off, or too many updates in a row were skipped.
        """
        if waits:
            self.read()
            self.waiting = False
        since = 0 if self._gave_up_at is None else self._updates - self._gave_up_at
        self._gave_up_at = None
        super().raise_if_given_up(update - since, last_checkpoint)
