"""Optimizer steps that do nothing where a flag on the device says so, by the agreement of torch's GradScaler."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import Tensor
from torch.optim import SGD, Optimizer

from noether.core.models.base import ModelBase


def takes_found_inf(optimizer: Optimizer) -> bool:
    """Return whether an optimizer looks at its `found_inf` in the kernel of its step."""
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    if "grad_scaler" in inspect.signature(optimizer.step).parameters:  # an older agreement, without `found_inf`
        return False
    return all(group.get("fused", True) for group in optimizer.param_groups)


def step_masked(model: ModelBase, optimizers: Sequence[Optimizer], mask: Tensor) -> None:
    """Let the model's optimizers step, or leave their parameters and states as they are where `mask` is 1.0.

    No gradient scaler takes part: the gradients are unscaled, and its own mask would cover one optimizer at a time.

    Args:
        model: The model.
        optimizers: Its torch optimizers, all of which take `found_inf`.
        mask: 0.0 or 1.0 on the device.
    """
    for optimizer in optimizers:
        optimizer.found_inf, optimizer.grad_scale = mask, None  # type: ignore[attr-defined]  # torch's agreement
    try:
        model.optimizer_step()
    finally:
        for optimizer in optimizers:
            del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]  # as above


class MomentumStart:
    """Says when fused SGD is about to begin a momentum, which it must not do in a masked step.

    Such a step makes the buffer and leaves it uninitialised, and the next one goes on with what is in it.

    Args:
        optimizers: All optimizers; those without a momentum are never a reason.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._starting = [optimizer for optimizer in optimizers if isinstance(optimizer, SGD)]

    def is_near(self) -> bool:
        """Whether a parameter that has a gradient has no momentum yet."""
        if not self._starting:
            return False
        self._starting = [optimizer for optimizer in self._starting if not _has_momentum(optimizer, everywhere=True)]
        return not all(_has_momentum(optimizer, everywhere=False) for optimizer in self._starting)


def _has_momentum(optimizer: SGD, *, everywhere: bool) -> bool:
    """Whether all parameters have the momentum that they need, or only those that have gradients now."""
    return all(
        optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        for group in optimizer.param_groups
        if group["momentum"]
        for parameter in group["params"]
        if everywhere or parameter.grad is not None
    )
