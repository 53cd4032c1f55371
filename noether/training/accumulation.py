"""Accumulation of losses that are not means over samples, with the gradients and numbers of one large batch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from noether.core.callbacks.tracked import precise
from noether.training.trainers.types import Count, TrainerResult, run_backward

Weights: TypeAlias = dict[str, float | Tensor | None]
"""Weight of each loss of a batch in a mean over batches; None for a loss that is a sum.

Without `total`, the total is the sum of the others.
"""


def weights_of(result: TrainerResult, per_batch: float) -> Weights:
    """Return the weights of the losses of one batch in a mean over several.

    Args:
        result: The result of the batch.
        per_batch: Weight of a loss without a count: the samples of the batch, or 1 if all batches have the same number.
    """
    names, count = [*(result.losses_to_log or ()), "total"], result.count
    if isinstance(count, Mapping):
        counts: dict[str, Count] = {name: count.get(name, per_batch) for name in names[:-1]}
    else:
        counts = dict.fromkeys(names, per_batch if count is None else count)
    return {name: None if isinstance(each, str) else each for name, each in counts.items()}


class Adds(Protocol):
    """Adds up a tensor over all ranks, in place."""

    @property
    def world(self) -> int:
        """Return the number of ranks."""

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""


class Accumulation:
    """Gradients of an update whose losses are weighted by what they count.

    After each accumulation step, the gradients are those of the mean over all steps so far: they are scaled by the
    share that the earlier steps have, before the backward pass adds its own. Losses with different counts have
    different shares, so each gets a backward pass and gradients of its own, which are added up in the last step.

    With several ranks, the counts are those of all of them; their gradients are averaged afterwards.

    Args:
        parameters: The parameters that are trained.
        ranks: Adds up counts over all ranks; None for one.
    """

    def __init__(self, parameters: Sequence[Parameter], ranks: Adds | None = None) -> None:
        self._parameters, self._ranks = parameters, ranks
        self._counts: dict[str, Tensor] = {}
        self._held: dict[str, list[Tensor | None]] = {}
        self._direct: str | None = None  # the group whose gradients are those of the parameters themselves

    def backward(
        self,
        result: TrainerResult,
        steps: int,
        step: int,
        scale: Callable[[Tensor], Tensor],
        *,
        retain_graph: bool = False,
    ) -> Tensor:
        """Run the backward pass of one accumulation step and return the share of its loss in that of the update.

        Args:
            result: The result of the train step, with counts.
            steps: Accumulation steps of the update.
            step: Number of this one, from 0.
            scale: Scales a loss, as a gradient scaler does.
            retain_graph: Keep the graph.

        Returns:
            The share, detached: it is not finite if the loss is not, or if the whole update has nothing to average.
        """
        if step == 0:
            self._forget()
        elif not self._counts and not self._held and self._direct is None:  # the steps before were means over samples
            self._held[_WITHOUT_COUNT] = _swap(self._parameters, None)
        groups = _groups(result, steps, 1 if self._ranks is None else self._ranks.world)
        shares = [self._share(key, loss, count) for key, (loss, count) in groups.items()]
        if len(groups) == 1 and not self._held and self._direct in (None, *groups):
            self._direct = next(iter(groups))
            _scale(self._parameters, shares[0][1])
            run_backward(scale(shares[0][0]), retain_graph=retain_graph)
        else:
            self._backward_apart(dict(zip(groups, shares, strict=True)), scale, retain_graph=retain_graph)
        if step == steps - 1:
            self._add_up()
            # NaN for a mean over nothing
            shares += [((seen * 0.0 / seen).to(result.total_loss), None) for seen in self._counts.values()]
            self._forget()
        return reduce(operator.add, [share.detach() for share, _ in shares])

    def _share(self, key: str, loss: Tensor, count: float | Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return a loss times its share so far, and the factor of the gradients before it; None leaves them alone."""
        if count is None:
            return loss, None
        if not isinstance(count, Tensor):
            count = torch.full((), count, device=loss.device)  # not `torch.tensor`, whose copy waits for the device
        each = precise(count.to(loss.device)).detach()
        own = each
        if self._ranks is not None:
            each, own = self._ranks.reduce(each.clone()), each * self._ranks.world
        before = self._counts.get(key)
        now = self._counts[key] = each if before is None else before + each
        share = (own / now).nan_to_num(0.0).to(loss.dtype)
        kept = None if before is None else (before / now).nan_to_num(0.0)
        return torch.where(own > 0, loss, torch.zeros_like(loss)) * share, kept

    def _backward_apart(
        self,
        shares: Mapping[str, tuple[Tensor, Tensor | None]],
        scale: Callable[[Tensor], Tensor],
        *,
        retain_graph: bool,
    ) -> None:
        if self._direct is not None:
            self._held[self._direct] = _swap(self._parameters, None)
            self._direct = None
        left = len(shares)
        for key, (share, kept) in shares.items():
            left -= 1
            _swap(self._parameters, self._held.get(key))
            _scale(self._parameters, kept)
            if share.requires_grad:  # a part may be a number
                run_backward(scale(share), retain_graph=retain_graph or left > 0)
            self._held[key] = _swap(self._parameters, None)

    def _add_up(self) -> None:
        """Give the parameters the sum of all gradients that are held apart."""
        for index, parameter in enumerate(self._parameters if self._held else ()):
            gradients = [gradient for held in self._held.values() if (gradient := held[index]) is not None]
            parameter.grad = reduce(operator.add, gradients) if gradients else None

    def _forget(self) -> None:
        self._counts, self._held, self._direct = {}, {}, None


_WITHOUT_COUNT = ""
"""Group of the parts whose share is known before: means over samples, and sums."""


def _groups(result: TrainerResult, steps: int, world: int = 1) -> dict[str, tuple[Tensor, float | Tensor | None]]:
    """Return the losses that share a count, by a name of their own; sums are to be averaged over `world` ranks."""
    total, count = result.total_loss, result.count
    if not isinstance(count, Mapping):
        if count is None:
            return {_WITHOUT_COUNT: (total / steps, None)}
        return {_WITHOUT_COUNT: (total * world, None)} if isinstance(count, str) else {"total": (total, count)}
    groups: dict[str, tuple[Tensor, float | Tensor | None]] = {}
    for name, loss in (result.losses_to_log or {}).items():
        each = count.get(name)
        if each is None or isinstance(each, str):
            key, share, number = _WITHOUT_COUNT, loss / steps if each is None else loss * world, None
        else:
            same = (key for key, (_, other) in groups.items() if other is each and isinstance(each, Tensor))
            key, share, number = next(same, name), loss, each
        groups[key] = (groups[key][0] + share if key in groups else share, number)
    return groups


def _scale(parameters: Sequence[Parameter], factor: Tensor | None) -> None:
    for parameter in parameters:
        if factor is not None and parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad.dtype))


def _swap(parameters: Sequence[Parameter], gradients: Sequence[Tensor | None] | None) -> list[Tensor | None]:
    """Give parameters other gradients, or none, and return those that they had."""
    former = [parameter.grad for parameter in parameters]
    for index, parameter in enumerate(parameters):
        parameter.grad = None if gradients is None else gradients[index]
    return former


def shown(losses: dict[str, Tensor], result: TrainerResult, steps: int) -> dict[str, Tensor]:
    """Return the losses of one accumulation step as those of a whole update: a sum counts for all of its steps."""
    count = result.count
    if isinstance(count, Mapping):
        parts = {n: loss * steps if isinstance(count.get(n), str) else loss for n, loss in losses.items()}
        parts["total"] = torch.stack([loss for name, loss in parts.items() if name != "total"]).sum()
        return parts
    return {name: loss * steps for name, loss in losses.items()} if isinstance(count, str) else losses
