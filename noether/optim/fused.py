"""Fused optimizer steps: the kernels of torch's Adam and AdamW, called without the wrappers of `Optimizer.step`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from noether.optim.optimizer_state import Options

_Tensors: TypeAlias = tuple[tuple[Tensor, ...], ...]
"""Parameters, gradients and entries of the state of a group."""


class FusedStep:
    """The optimizer step of a fused Adam or AdamW; torch makes about 90 calls around its two kernels.

    The kernels are given what `Optimizer.step` would give them, so that the result has the same bits. Nothing is kept
    from one update to the next: groups, options, gradients and state are read each time, because callbacks may change
    them. A step that is not the plain one (the first, with hooks, under a profiler, of parameters without a gradient)
    is left to torch.

    Args:
        optimizer: The optimizer.
        one: 1.0 on the device of its parameters.
    """

    def __init__(self, optimizer: Optimizer, one: Tensor) -> None:
        self._optimizer = optimizer
        self._attributes = vars(optimizer)
        self._step = type(optimizer).step
        self._one = [one]

    @classmethod
    def of(cls, optimizer: Optimizer) -> FusedStep | None:
        """Return the step of an optimizer; None if it is another one, or its groups mix types or devices."""
        if type(optimizer) not in (Adam, AdamW) or not _is_of_torch(type(optimizer).step):
            return None
        for group in optimizer.param_groups:
            if len({(parameter.dtype, parameter.device) for parameter in group["params"]}) != 1:
                return None
        devices = {group["params"][0].device for group in optimizer.param_groups}
        return cls(optimizer, torch.ones((), device=devices.pop())) if len(devices) == 1 else None

    def __call__(self) -> bool:
        """Do the optimizer step; return False, with nothing done, if it has to be torch's."""
        own, optimizer = self._attributes, self._optimizer
        if (
            own["_optimizer_step_pre_hooks"]
            or own["_optimizer_step_post_hooks"]
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or profiler._is_profiler_enabled
            or "step" in own  # a schedule of torch or a compiler has put it there
            or type(optimizer).step is not self._step
            or ("grad_scale" in own and own["grad_scale"] is not None)
            or torch.is_grad_enabled()
        ):
            return False
        mask = own.get("found_inf")
        state = iter(optimizer.state.items())
        collected: list[tuple[Options, _Tensors]] = []
        for group in optimizer.param_groups:
            tensors = _tensors_of(group, state)
            if tensors is None or (mask is not None and mask.device != self._one[0].device):
                return False
            collected += ((group, tensors),)
        for group, tensors in collected:
            self._apply(group, tensors, mask)
        return True

    def _apply(self, group: Options, tensors: _Tensors, mask: Tensor | None) -> None:
        parameters, gradients, averages, squares, steps = tensors
        number = len(steps)
        torch._foreach_add_(steps, self._one * number)  # torch adds a number, which becomes a tensor for each of them
        beta1, beta2 = group["betas"]
        (torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_)(
            parameters,
            gradients,
            averages,
            squares,
            (),
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
            grad_scale=None,
            found_inf=mask,
        )
        if mask is not None:
            torch._foreach_sub_(steps, [mask] * number)


def _tensors_of(group: Options, state: Iterator[tuple[Tensor, Any]]) -> _Tensors | None:
    """Return parameters, gradients and state of a group; None if only torch can collect them.

    Args:
        group: The group.
        state: State by parameter, from the first parameter of the group on.
    """
    parameters, lr, (beta1, beta2) = group["params"], group["lr"], group["betas"]
    is_plain = group["fused"] and not group["amsgrad"] and not group["differentiable"]
    if not is_plain or type(lr) is not float or type(beta1) is not float or type(beta2) is not float:
        return None
    try:
        rows = [
            (parameter, gradient, entries["exp_avg"], entries["exp_avg_sq"], entries["step"])
            for parameter, (member, entries) in zip(parameters, state, strict=False)
            if member is parameter and (gradient := parameter.grad) is not None
        ]
    except KeyError:  # there is none yet, or a callback has removed it
        return None
    return tuple(zip(*rows, strict=True)) if len(rows) == len(parameters) else None


def _is_of_torch(function: Any) -> bool:
    """Return False if a function, or one that it wraps, is not torch's, because it was replaced."""
    last = inspect.unwrap(function, stop=lambda each: not _is_in_torch(each))
    return _is_in_torch(last)


def _is_in_torch(function: Any) -> bool:
    return str(getattr(function, "__globals__", {}).get("__name__")).startswith("torch.")
