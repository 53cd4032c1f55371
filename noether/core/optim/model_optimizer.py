"""ModelOptimizer: one torch optimizer with clipping, schedules and parameter names around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from noether.core.optim.optimizer_state import (
    changed_options,
    options_of,
    require_same_class,
    require_same_names,
    restore_entries,
    restore_options,
)
from noether.core.optim.schedules.base import Schedule


class Scheduled:
    """One value of every parameter group (`lr`, `weight_decay`) under a schedule."""

    def __init__(self, key: str, schedule: Schedule, optimizer: Optimizer) -> None:
        self.key = key
        self.schedule = schedule
        self._targets = [(group, group[key]) for group in optimizer.param_groups]

    def apply(self, update: int) -> None:
        """Set the value that is in force after `update` completed updates."""
        factor = self.schedule.factor(update)
        for group, base in self._targets:
            group[self.key] = base * factor


class ModelOptimizer:
    """What the loop does with an optimizer: schedule, unscale, clip, step, zero.

    Args:
        optimizer: The torch optimizer, its groups built.
        names: Parameter names in the order of the groups; the optimizer's state is saved under them.
        scheduled: Values under a schedule.
        clip_grad_norm: Largest global gradient norm; None leaves gradients alone.
        clip_grad_value: Largest absolute gradient entry; None leaves gradients alone.
        built_for: Total updates and updates of an epoch that the schedules assume; None where it was made by hand.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        names: Sequence[str],
        scheduled: Sequence[Scheduled] = (),
        clip_grad_norm: float | None = None,
        clip_grad_value: float | None = None,
        built_for: tuple[int, int] | None = None,
    ) -> None:
        self.torch_optimizer = optimizer
        self.names = list(names)
        self.scheduled = list(scheduled)
        self.built_for = built_for
        self.clip_grad_norm = clip_grad_norm
        self.clip_grad_value = clip_grad_value
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.last_grad_norm: torch.Tensor | None = None
        self.zero_grad = optimizer.zero_grad  # releases the gradients; torch sets them to None by default
        self.clips = clip_grad_norm is not None or clip_grad_value is not None
        self._given = options_of(optimizer)

    @property
    def has_gradients(self) -> bool:
        """Whether the backward pass has reached any of its parameters."""
        return any(parameter.grad is not None for parameter in self.parameters)

    @property
    def lr(self) -> float:
        """The learning rate of what no group of the spec names; of the first group where they name everything."""
        return float(self.torch_optimizer.param_groups[0]["lr"])

    def schedule_step(self, update: int) -> None:
        """Set learning rate and weight decay from the completed updates."""
        for scheduled in self.scheduled:
            scheduled.apply(update)

    def clip(self) -> None:
        """Clip the gradients; the norm before clipping stays on the device as `last_grad_norm`."""
        if self.clip_grad_value is not None:
            torch.nn.utils.clip_grad_value_(self.parameters, self.clip_grad_value)
        if self.clip_grad_norm is not None:
            self.last_grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm)

    def step(self, grad_scaler: torch.amp.GradScaler | None = None) -> None:
        """Clip and apply the gradients, which a scaler has unscaled before."""
        if self.clips:
            self.clip()
        if grad_scaler is None:
            self.torch_optimizer.step()
        elif self.has_gradients:  # a scaler refuses an optimizer that it has seen no gradients of
            grad_scaler.step(self.torch_optimizer)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return the state as flat tensors named `<parameter name>/<entry>`, for a checkpoint."""
        tensors = {}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for entry, value in self.torch_optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}/{entry}"] = value
        return tensors

    def state_values(self) -> dict[str, Any]:
        """Return what is no tensor: the class, options of each group, and plain entries of the state by parameter name.

        A group's `changed` names the options that are not as they were when the optimizer was built, those aside that
        a schedule sets.
        """
        under_schedule = {scheduled.key for scheduled in self.scheduled}
        groups, start = [], 0
        for group, given in zip(self.torch_optimizer.param_groups, self._given, strict=True):
            end = start + len(group["params"])
            options = {key: value for key, value in group.items() if key != "params"}
            changed = [key for key in changed_options(options, given) if key not in under_schedule]
            groups.append({"names": self.names[start:end], "changed": changed, **options})
            start = end
        plain = {
            name: {
                entry: value
                for entry, value in self.torch_optimizer.state.get(parameter, {}).items()
                if not isinstance(value, torch.Tensor)
            }
            for name, parameter in zip(self.names, self.parameters, strict=True)
        }
        return {
            "class": type(self.torch_optimizer).__name__,
            "groups": groups,
            "state": {name: entries for name, entries in plain.items() if entries},
        }

    def load_state(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Take back what `state_tensors` and `state_values` returned; parameters may come in another order.

        Options of the groups (`lr`, `betas`, …) stay those that this optimizer was built with, so that a changed spec
        counts; but one that the saved run had changed itself, by a callback or because the optimizer keeps its progress
        there, is state and comes back. What a schedule sets follows from the update alone.

        Raises:
            CheckpointError: The state is for other parameters, or for another optimizer; the message names them.
        """
        require_same_class(values.get("class"), self.torch_optimizer)
        saved = values["groups"]
        require_same_names([name for group in saved for name in group["names"]], self.names)
        restore_entries(self.torch_optimizer, self.names, tensors, values["state"])
        restore_options(self.torch_optimizer, self.names, saved)
