"""Optimizer steps of SGD, Adam and AdamW as functions of tensors, for updates that are compiled as one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from noether.optim.model_optimizer import ModelOptimizer

_ENTRIES = {SGD: ("momentum_buffer",), Adam: ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
_ENTRIES[AdamW] = _ENTRIES[Adam]
_GIVEN = ("lr", "weight_decay")  # set before each update
_CLIP_EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_

State = dict[str, Tensor]
"""State of one parameter: as in torch's optimizer, whose tensors these are."""


def is_wrapped(optimizer: Optimizer) -> bool:
    """Return True if an optimizer step calls hooks, or something has put its own function in place of `step`."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or _global_optimizer_pre_hooks
    return bool(hooks or _global_optimizer_post_hooks) or "step" in vars(optimizer)


def step_refusal(optimizer: ModelOptimizer) -> str | None:
    """Return the reason why an optimizer step cannot be a function of tensors; None if it can."""
    own, name = optimizer.torch_optimizer, type(optimizer.torch_optimizer).__name__
    if type(own) not in _ENTRIES:
        return f"the optimizer is {name}, expected SGD, Adam or AdamW"
    for group in own.param_groups:
        for option in ("differentiable", "capturable", "dampening"):
            if group.get(option):
                return f"{name} has {option} = {group[option]}"
        if any(isinstance(group[key], Tensor) for key in _GIVEN) or isinstance(group.get("betas", (0.0,))[0], Tensor):
            return f"{name} has options that are tensors"
    for parameter_name, parameter in zip(optimizer.names, optimizer.parameters, strict=True):
        if parameter.dtype not in (torch.float32, torch.float64) or parameter.layout is not torch.strided:
            return f"parameter '{parameter_name}' is of {parameter.dtype}, expected dense float32 or float64"
    return None


class FunctionalStep:
    """The optimizer step of one optimizer, traced; state and options stay those of the torch optimizer.

    Learning rate and weight decay of each group are read from `given`, which `refresh` fills. All other options become
    part of the graph.

    Args:
        optimizer: The optimizer.

    Attributes:
        parameters: Its parameters, in the order of its groups.
        given: Learning rate and weight decay of each group, in double precision.
    """

    def __init__(self, optimizer: ModelOptimizer) -> None:
        self.optimizer = optimizer
        torch_optimizer = optimizer.torch_optimizer
        self._groups = torch_optimizer.param_groups
        self.parameters = optimizer.parameters
        self.group_of = [index for index, group in enumerate(self._groups) for _ in group["params"]]
        self._is_adam = not isinstance(torch_optimizer, SGD)
        self._values = np.zeros((len(self._groups), len(_GIVEN)))
        self.given = torch.from_numpy(self._values)
        self._shown: list[tuple[float, float]] = []
        self._clip_value, self._clip_norm = optimizer.clip_grad_value, optimizer.clip_grad_norm
        self._states: Mapping[Any, Any] = torch_optimizer.state
        self._entries: list[dict[str, Any]] = []
        self._named: list[list[str]] = []

    def create_state(self) -> None:
        """Create the state of parameters that have none, as torch does in the first optimizer step; called once."""
        self._states = states = self.optimizer.torch_optimizer.state
        for parameter, index in zip(self.parameters, self.group_of, strict=True):
            group, state = self._groups[index], states[parameter]
            names = ["exp_avg", "exp_avg_sq"] if self._is_adam else ["momentum_buffer"] * bool(group["momentum"])
            names += ["max_exp_avg_sq"] * bool(group.get("amsgrad"))
            if self._is_adam and "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32)
            for name in names:
                if state.get(name) is None:
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        self._entries = [states[parameter] for parameter in self.parameters]
        self._named = [[name for name in entry if entry[name] is not None] for entry in self._entries]

    def is_current(self) -> bool:
        """Return False if the optimizer has loaded a state, or has other groups or bounds of clipping, since."""
        own = self.optimizer.torch_optimizer
        if own.state is not self._states or own.param_groups is not self._groups:
            return False
        bounds = self.optimizer.clip_grad_value, self.optimizer.clip_grad_norm
        return bounds == (self._clip_value, self._clip_norm) and len(self._groups) == len(self.given)

    def states(self) -> list[Tensor]:
        """Return the tensors of the state of all parameters, as they are now; one flat list is quick to guard."""
        return [entry[name] for entry, names in zip(self._entries, self._named, strict=True) for name in names]

    def refresh(self) -> None:
        """Fill `given` if a schedule or a callback has set other values."""
        shown = [(group["lr"], group["weight_decay"]) for group in self._groups]
        if shown != self._shown:
            self._shown = shown
            self._values[:] = shown

    # The part that is traced

    def clipped(self, gradients: list[Tensor], bad: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the gradients as `ModelOptimizer.clip` leaves them, and the norm before, as `last_grad_norm`."""
        if self._clip_norm is None:
            return [self._bounded(gradient) for gradient in gradients], None
        bounded = [self._bounded(gradient) for gradient in gradients]
        norm = _norm(bounded)
        factor = torch.clamp(self._clip_norm / (norm + _CLIP_EPSILON), max=1.0)
        measured = norm if self._clip_value is None else torch.where(bad, _norm(gradients), norm)
        return [gradient * factor for gradient in bounded], measured

    def _bounded(self, gradient: Tensor) -> Tensor:
        return gradient if self._clip_value is None else gradient.clamp(-self._clip_value, self._clip_value)

    def apply(
        self, parameters: list[Tensor], states: list[Tensor], given: Tensor, gradients: list[Tensor], bad: Tensor
    ) -> None:
        """Do the optimizer step in place, unless `bad` is true: then parameters and state stay as they are.

        Args:
            parameters: The parameters.
            states: Return value of `states`.
            given: The attribute `given`.
            gradients: Return value of `clipped`.
            bad: True on the device if a gradient or a loss is not finite.
        """
        compute, start = self._adam if self._is_adam else self._sgd, 0
        for parameter, names, index, gradient in zip(parameters, self._named, self.group_of, gradients, strict=True):
            state = dict(zip(names, states[start : start + len(names)], strict=True))
            start += len(names)
            group, lr, weight_decay = self._groups[index], given[index, 0], given[index, 1]
            if group["maximize"]:
                gradient = -gradient
            new, changed = compute(parameter, state, group, gradient, lr, weight_decay)
            parameter.copy_(torch.where(bad, parameter, new))
            for name in changed:
                state[name].copy_(torch.where(bad, state[name], changed[name]))

    @staticmethod
    def _sgd(
        parameter: Tensor, state: State, group: Mapping[str, Any], gradient: Tensor, lr: Tensor, weight_decay: Tensor
    ) -> tuple[Tensor, State]:
        gradient = gradient + parameter * weight_decay
        if not group["momentum"]:
            return parameter - gradient * lr, {}
        momentum = state["momentum_buffer"] * group["momentum"] + gradient
        step = gradient + momentum * group["momentum"] if group["nesterov"] else momentum
        return parameter - step * lr, {"momentum_buffer": momentum}

    @staticmethod
    def _adam(
        parameter: Tensor, state: State, group: Mapping[str, Any], gradient: Tensor, lr: Tensor, weight_decay: Tensor
    ) -> tuple[Tensor, State]:
        beta1, beta2 = group["betas"]
        if group["decoupled_weight_decay"]:
            parameter = parameter * (1.0 - lr * weight_decay)
        else:
            gradient = gradient + parameter * weight_decay
        step = state["step"] + 1.0
        mean = state["exp_avg"] + (gradient - state["exp_avg"]) * (1.0 - beta1)
        square = state["exp_avg_sq"] * beta2 + gradient * gradient * (1.0 - beta2)
        changed = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        if group["amsgrad"]:
            square = changed["max_exp_avg_sq"] = torch.maximum(state["max_exp_avg_sq"], square)
        exact = step.double()  # 1 - beta2 ** step loses half of the digits of single precision in the first updates
        size, root = lr / (1.0 - beta1**exact), (1.0 - beta2**exact).sqrt()
        return parameter - mean * size / (square.sqrt() / root + group["eps"]), changed


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the global norm of tensors, as torch.nn.utils.get_total_norm does."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))
    return norm
