"""Batch norms of several ranks: statistics over the samples of all of them, on a CPU as on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from noether.training.accumulation import Adds


def of_all_ranks(model: nn.Module, ranks: Adds) -> None:
    """Let the batch norms of a model take their statistics over all ranks; names, parameters and buffers stay.

    A subclass of batch norm with a forward pass of its own is left as it is.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and type(module) in _PLAIN:
            vars(module)["ranks"] = ranks
            module.__class__ = RanksBatchNorm  # in place: others may hold the module


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class RanksBatchNorm(_BatchNorm):
    """Batch norm with the mean and the variance of the samples of all ranks while it trains.

    `torch.nn.SyncBatchNorm` does the same on accelerators only.
    """

    ranks: Adds

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"wrong input of a batch norm: found {input.dim()} dimensions, expected at least 2")

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input, shape (batch, features, …)."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        normalise: Any = _Normalise.apply
        mean, variance, count, output = normalise(input, self.weight, self.bias, self)
        self._follow(mean, variance, count)
        found: Tensor = output
        return found

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, the variance without bias, as torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), share)


class _Normalise(Function):
    """Normalisation with its gradients: both need two sums for each feature over all ranks."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, norm: RanksBatchNorm) -> Any:
        over = [dim for dim in range(input.dim()) if dim != 1]
        # In double precision, so that the squares leave the variance its digits whatever the mean is.
        values = input.double()
        sums = torch.cat(
            [values.sum(over), values.square().sum(over), values.new_full((1,), input.numel() / input.size(1))]
        )
        norm.ranks.reduce(sums)
        total, squares = sums[:-1].chunk(2)
        count = sums[-1]
        mean = total / count
        variance = (squares / count - mean.square()).clamp_(min=0.0)
        scale = (variance + norm.eps).rsqrt()
        shape = [1, -1, *([1] * (input.dim() - 2))]
        normal = ((values - mean.view(shape)) * scale.view(shape)).to(input.dtype)
        ctx.save_for_backward(normal, weight, scale, count)
        ctx.norm, ctx.over, ctx.shape = norm, over, shape
        output = normal if weight is None or bias is None else normal * weight.view(shape) + bias.view(shape)
        ctx.mark_non_differentiable(mean, variance, count)
        return mean, variance, count, output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        normal, weight, scale, count = ctx.saved_tensors
        gradient: Tensor = gradients[-1]
        own = torch.cat([gradient.double().sum(ctx.over), (gradient.double() * normal).sum(ctx.over)])
        bias_gradient, weight_gradient = own.clone().to(gradient.dtype).chunk(2)  # those of this rank
        mean, along = (ctx.norm.ranks.reduce(own) / count).chunk(2)
        inner = gradient - mean.view(ctx.shape) - normal * along.view(ctx.shape)
        factor = scale if weight is None else scale * weight
        through = (inner * factor.view(ctx.shape)).to(gradient.dtype)
        return through, None if weight is None else weight_gradient, None if weight is None else bias_gradient, None
