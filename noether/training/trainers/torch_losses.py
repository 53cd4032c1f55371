"""Losses of torch: the values that each is a mean of, and their means over the valid elements of padded batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noether.data.collators import MASK
from noether.errors import TrainingError
from noether.training.trainers.types import Count, Counted

_ELEMENTS = (
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.poisson_nll_loss,
    F.kl_div,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    F.hinge_embedding_loss,
    F.soft_margin_loss,
)
_CLASSES = (F.cross_entropy, F.nll_loss)
_ROWS = (F.multilabel_margin_loss, F.multilabel_soft_margin_loss, F.multi_margin_loss)
_WEIGHTED_MEANS = (F.mse_loss, F.l1_loss, F.huber_loss)  # divided by the sum of `weight`, unlike the cross entropies
_MODULES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.MSELoss: F.mse_loss,
    nn.L1Loss: F.l1_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.HuberLoss: F.huber_loss,
    nn.PoissonNLLLoss: F.poisson_nll_loss,
    nn.KLDivLoss: F.kl_div,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.HingeEmbeddingLoss: F.hinge_embedding_loss,
    nn.SoftMarginLoss: F.soft_margin_loss,
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
    nn.MultiLabelMarginLoss: F.multilabel_margin_loss,
    nn.MultiLabelSoftMarginLoss: F.multilabel_soft_margin_loss,
    nn.MultiMarginLoss: F.multi_margin_loss,
}


class TorchLoss:
    """A loss function of torch with its options, whose mean is over known values.

    Args:
        function: The function of torch.nn.functional.
        options: Its options.
        ragged: True if batches with the same number of samples may have different numbers of values.
    """

    def __init__(self, function: Callable[..., Tensor], options: Mapping[str, Any], *, ragged: bool) -> None:
        self.function = function
        self.options = {name: value for name, value in options.items() if name not in ("size_average", "reduce")}
        legacy = [options.get(name) for name in ("size_average", "reduce")]
        if legacy != [None, None]:
            average, reduce = (value is not False for value in legacy)
            self.options["reduction"] = ("mean" if average else "sum") if reduce else "none"
        self.reduction = self.options.get("reduction", "mean")
        self.ragged = ragged
        self.is_elementwise = function in _ELEMENTS
        self.takes_classes = function in _CLASSES

    @classmethod
    def of(cls, loss_fn: Any, *, ragged: bool = False) -> TorchLoss | None:
        """Return the description of a loss; None for one of the project, or of weights that differ by element."""
        options: dict[str, Any] = {}
        while isinstance(loss_fn, partial) and not loss_fn.args:
            loss_fn, options = loss_fn.func, {**loss_fn.keywords, **options}
        if (function := _MODULES.get(type(loss_fn))) is not None:
            names = inspect.signature(function).parameters
            options = {name: getattr(loss_fn, name) for name in names if hasattr(loss_fn, name)}
            loss_fn = function
        if loss_fn not in (*_ELEMENTS, *_CLASSES, *_ROWS):
            return None
        if loss_fn in _WEIGHTED_MEANS and options.get("weight") is not None:
            return None
        return cls(loss_fn, options, ragged=ragged)

    def is_plain(self, targets: Iterable[tuple[Tensor, Callable[[], bool]]]) -> bool:
        """Return True if every batch is a mean over its samples, or not reduced at all.

        Args:
            targets: The target of each field in one batch, and a function that tells if others may have ignored ones.
        """
        if self.reduction == "none" or not self.takes_classes:
            return self.reduction == "none" or not (self.ragged or self.reduction == "sum")
        if self.ragged or self.reduction == "sum":
            return False
        weighs = self.options.get("weight") is not None
        return all(target.is_floating_point() or not (weighs or may_ignore()) for target, may_ignore in targets)

    @property
    def average(self) -> str:
        """The values that it is a mean of, in words."""
        if self.reduction == "sum":
            return "a sum over samples"
        if self.takes_classes:
            weights = ", by their class weights" if self.options.get("weight") is not None else ""
            return f"a mean over the targets that are not ignored{weights}"
        return "a mean over the values of all samples" if self.ragged else "a mean over samples"

    def __call__(
        self, input: Tensor, target: Tensor, mask: Tensor | None = None, points: Tensor | None = None
    ) -> Counted | Tensor:
        """Return the loss of one batch with its count; without one, it is a mean over samples.

        Args:
            input: Output of the model.
            target: Its target.
            mask: Valid points, if the batch is padded.
            points: Number of the valid points.
        """
        if mask is not None and is_per_point(target, mask):
            if not self.takes_classes or target.is_floating_point():
                return self._masked(input, target, mask, mask.sum() if points is None else points)
            target = torch.where(_like(mask, target), target, self.options.get("ignore_index", -100))
        loss = self.function(input, target, **self.options)
        count = self._count(target)
        return loss if count is None else Counted(loss, count)

    @property
    def ignore_index(self) -> int | None:
        """The target class that does not count; None for losses of values."""
        return int(self.options.get("ignore_index", -100)) if self.takes_classes else None

    def _count(self, target: Tensor) -> Count | None:
        if self.reduction == "sum":
            return "sum"
        if self.takes_classes and not target.is_floating_point():
            valid = target.ne(self.options.get("ignore_index", -100))
            weight = self.options.get("weight")
            return valid.sum() if weight is None else torch.sum(weight[torch.where(valid, target, 0)] * valid)
        if not self.ragged:
            return None
        return target.numel() if self.is_elementwise and self.reduction == "mean" else len(target)

    def _masked(self, input: Tensor, target: Tensor, mask: Tensor, points: Tensor) -> Counted:
        """Return the loss over the valid points alone."""
        each = self.function(input, target, **{**self.options, "reduction": "none"})
        total = torch.where(_like(mask, each), each, 0.0).sum()
        if self.reduction == "sum":
            return Counted(total, "sum")
        return Counted(total / (points * (each.numel() // mask.numel())), points)


def is_per_point(tensor: Tensor, mask: Tensor) -> bool:
    """Return True if a property has a value for each point of a padded batch.

    Raises:
        TrainingError: if the mask is not a bool tensor of shape (batch, points).
    """
    if mask.dtype is not torch.bool or mask.ndim != 2:
        raise TrainingError(
            f"wrong '{MASK}' of a batch: found {tuple(mask.shape)} {str(mask.dtype).removeprefix('torch.')}, expected "
            "(batch, points) bool",
            hint='set collate = "pad" under [datasets.<key>], or give the property another name',
        )
    return tensor.shape[:2] == mask.shape


def _like(mask: Tensor, tensor: Tensor) -> Tensor:
    return mask.reshape(mask.shape + (1,) * (tensor.ndim - 2)).expand_as(tensor)
