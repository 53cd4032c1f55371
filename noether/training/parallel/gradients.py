"""An update of several ranks: gradients, losses and batch norms are those of all of their samples together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from noether.core.models.base import ModelBase
from noether.errors import TrainingError
from noether.optim.kernels import is_sharded, local
from noether.training.accumulation import Adds, Weights
from noether.training.nonfinite import FiniteGuard
from noether.training.parallel.one import Parallel
from noether.training.update import StepOutcome, Update


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


class UpdateOfRanks(Update):
    """An eager update whose ranks exchange gradients and losses.

    Losses that hooks get, with their weights, are those of the samples of all ranks, so that no callback has to know of
    ranks. Gradients are exchanged once an update, after the last accumulation step.

    Args:
        parallel: The ranks.
        *arguments: See `Update`.
        finds_unused: True if parameters may get gradients in some updates only.
        **options: See `Update`.
    """

    def __init__(self, parallel: Parallel, *arguments: Any, finds_unused: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parallel = parallel
        self._finds_unused = finds_unused
        self._exchange: FlatGradients | None = None
        self._names: tuple[str, ...] | None = None
        self._is_wrapped = self._is_sharded = False

    def adopt(self, model: ModelBase, dist_model: torch.nn.Module) -> None:
        """Remember a model as `Update.adopt` does; a wrapped or a sharded one exchanges gradients itself."""
        self._is_sharded = any(map(is_sharded, model.parameters()))
        self._is_wrapped = self._is_sharded or isinstance(dist_model, DistributedDataParallel)
        super().adopt(model, dist_model)

    def take_optimizers(self, model: ModelBase) -> None:
        """Remember the optimizers of a model; the gradients of their parameters are exchanged."""
        super().take_optimizers(model)
        self.weighs = self.parallel
        named = [
            (f"{part}.{name}", parameter)
            for part, optimizer in model.optimizers().items()
            for name, parameter in zip(optimizer.names, optimizer.parameters, strict=True)
        ]
        self._exchange = None if self._is_wrapped else FlatGradients(self.parallel, named, reads=self._finds_unused)

    def accumulate(
        self,
        batch: Any,
        dist_model: torch.nn.Module,
        model: ModelBase,
        accumulation_steps_total: int,
        accumulation_step: int,
        retain_graph: bool = False,
    ) -> StepOutcome:
        """Do one accumulation step; see `BaseTrainer.update`."""
        arguments = (batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph)
        if accumulation_step < accumulation_steps_total - 1:
            with self.parallel.no_sync(dist_model):
                losses, outputs, watches = super().accumulate(*arguments)
        else:
            losses, outputs, watches = super().accumulate(*arguments)
        names = tuple(losses)
        if names != self._names:
            self._require_same(names)
        losses, self.loss_weights = over_ranks(self.parallel, losses, self.loss_weights)
        return losses, outputs and outputs_over_ranks(self.parallel, outputs), watches

    def _require_same(self, names: tuple[str, ...]) -> None:
        """Refuse losses with other names on another rank: their sums would be those of different losses."""
        if self._names is not None:
            raise TrainingError(
                f"the losses changed during training: found {', '.join(names)}, expected {', '.join(self._names)}",
                hint="with several ranks, return the same losses in each accumulation step, 0 for a missing one",
            )
        for rank, found in enumerate(self.parallel.gather(names)):
            if found != names:
                raise TrainingError(
                    f"the ranks have different losses: found {', '.join(found)} on rank {rank}, expected "
                    f"{', '.join(names)}",
                    hint="return the same losses on each rank, 0 for one that is not there",
                )
        self._names = names

    def _apply(self, model: ModelBase, loss: Tensor) -> None:
        """Exchange the gradients and the loss, then clip and apply as `Update` does."""
        for kept in self.guard.kept:
            loss = loss + 0.0 * kept  # not finite if an accumulation step of this rank was not
        if self._is_sharded:
            loss = self._marked(loss)
        loss = (
            self.parallel.reduce(loss.clone()) / self.parallel.world if self._exchange is None else self._exchange(loss)
        )
        super()._apply(model, loss)

    def _marked(self, loss: Tensor) -> Tensor:
        """Return the loss, not finite if the share of the gradients that this rank has is not."""
        found, one = loss.new_zeros(()), loss.new_ones(())
        own = [local(p.grad) for p in self._parameters if p.grad is not None]
        own = [torch.view_as_real(gradient) if gradient.is_complex() else gradient for gradient in own]
        torch._amp_foreach_non_finite_check_and_unscale_([*own, loss.clone()], found, one)
        return torch.where(found > 0.0, torch.full_like(loss, torch.nan), loss)


def update_of(trainer: Any, guard: FiniteGuard) -> Update:
    """Return the eager update of a trainer, with its ranks, step, precision and sizes."""
    arguments = (trainer.train_step, trainer.precision, guard)
    to_device = None if trainer.device.type == "cpu" else trainer.to_device
    options = {"accumulation_steps": trainer.accumulation_steps, "to_device": to_device}
    if trainer.parallel.world == 1:
        return Update(*arguments, **options)
    return UpdateOfRanks(trainer.parallel, *arguments, finds_unused=trainer.config.find_unused_params, **options)


def over_ranks(
    parallel: Parallel, losses: Mapping[str, Tensor], weights: Weights | None
) -> tuple[dict[str, Tensor], Weights | None]:
    """Return the losses of one accumulation step over the samples of all ranks, with their weights.

    Args:
        parallel: The ranks.
        losses: Losses of this rank by name.
        weights: See `Update.loss_weights`; of this rank.
    """
    names = [name for name in losses if weights is None or name in weights]
    values = torch.stack([losses[name].detach().double() for name in names])
    if weights is None:
        means = parallel.reduce(values) / parallel.world
        return {name: mean.to(losses[name].dtype) for name, mean in zip(names, means.unbind(), strict=True)}, None
    own = [weights[name] for name in names]
    times = torch.stack([_double(1.0 if weight is None else weight, values) for weight in own])
    total, count = parallel.reduce(torch.cat([torch.where(times > 0, values * times, 0.0), times])).chunk(2)
    shown: dict[str, Tensor] = {}
    for name, weight, value, number in zip(names, own, total.unbind(), count.unbind(), strict=True):
        shown[name] = (value if weight is None else value / number).to(losses[name].dtype)
    if "total" not in shown:  # its parts have counts of their own
        shown = {"total": torch.stack(list(shown.values())).sum(), **shown}
    counts: Weights = {
        name: None if weight is None else number
        for name, weight, number in zip(names, own, count.unbind(), strict=True)
    }
    return shown, counts


def outputs_over_ranks(parallel: Parallel, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return additional outputs of all ranks: the mean of a scalar, and all others one after the other."""
    found: dict[str, Any] = dict(outputs)
    tensors = {name: torch.as_tensor(output) for name, output in outputs.items() if isinstance(output, Tensor | float)}
    scalars = [name for name, tensor in tensors.items() if tensor.numel() == 1 and not tensor.is_complex()]
    if scalars:
        device = next((tensors[name].device for name in scalars if isinstance(outputs[name], Tensor)), None)
        values = torch.stack([tensors[name].detach().double().reshape(()).to(device) for name in scalars])
        found |= dict(zip(scalars, (parallel.reduce(values) / parallel.world).unbind(), strict=True))
    for name in [name for name in tensors if name not in scalars]:
        parts = parallel.gather(tensors[name].detach().cpu())
        found[name] = torch.cat(parts).to(tensors[name].device)
    return found


def _double(weight: float | Tensor, beside: Tensor) -> Tensor:
    return weight.to(beside) if isinstance(weight, Tensor) else beside.new_full((), weight)


class FlatGradients:
    """Gradients of all ranks, added up in one buffer in the order of their names.

    The order never changes, so a run that was restarted adds up as one that was not, with any number of ranks. A
    parameter that has no gradient on any rank gets none.

    Args:
        parallel: The ranks.
        named: Names and parameters.
        reads: Read from an accelerator which parameters have gradients; a CPU is always asked.
    """

    def __init__(self, parallel: Parallel, named: Sequence[tuple[str, Parameter]], *, reads: bool) -> None:
        self._parallel = parallel
        ordered = sorted(named, key=lambda one: (str(one[1].dtype), str(one[1].device), one[0]))
        self._names = [name for name, _ in ordered]
        self._parameters = [parameter for _, parameter in ordered]
        groups = groupby(self._parameters, key=lambda one: (one.dtype, one.device))
        self._groups = [(list(members), dtype, device) for (dtype, device), members in groups]
        self._buffers: list[tuple[Tensor, list[Tensor]]] = []
        self._reads = reads or all(parameter.device.type == "cpu" for parameter in self._parameters)
        self._present: list[bool] | None = None

    def __call__(self, loss: Tensor) -> Tensor:
        """Give all parameters the mean of their gradients over the ranks; return that of the loss."""
        world = self._parallel.world
        present = [parameter.grad is not None for parameter in self._parameters]
        marks = torch.tensor([*present, 0.0], dtype=torch.float64).to(loss.device)
        marks[-1] = loss
        tail = self._parallel.reduce(marks)
        if self._reads:
            present = [count > 0 for count in tail[:-1].tolist()]
        elif self._present is None:
            self._present = [count > 0 for count in tail[:-1].tolist()]
        if not self._reads and present != self._present:
            self._refuse(present)
        self._add_up(present)
        return (tail[-1] / world).to(loss.dtype)

    def _add_up(self, present: Sequence[bool]) -> None:
        if not self._buffers:
            self._buffers = [_buffer(members, dtype, device) for members, dtype, device in self._groups]
        wanted = iter(present)
        for (members, _, _), (flat, views) in zip(self._groups, self._buffers, strict=True):
            taken = [next(wanted) for _ in members]
            if not any(taken):
                continue
            for parameter, view, is_taken in zip(members, views, taken, strict=True):
                if is_taken and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                elif not is_taken:
                    view.zero_()
            there = [parameter for parameter, is_taken in zip(members, taken, strict=True) if is_taken]
            places = [view for view, is_taken in zip(views, taken, strict=True) if is_taken]
            gradients = [self._dense(parameter) for parameter in there]
            torch._foreach_copy_(places, gradients)
            self._parallel.reduce(torch.view_as_real(flat) if flat.is_complex() else flat)
            flat.div_(self._parallel.world)
            torch._foreach_copy_(gradients, places)

    def _dense(self, parameter: Parameter) -> Tensor:
        gradient = parameter.grad
        assert gradient is not None, "it has one by now"
        if gradient.layout is torch.strided:
            return gradient
        name = next(name for name, one in zip(self._names, self._parameters, strict=True) if one is parameter)
        raise TrainingError(
            f"a sparse gradient cannot be added up over several ranks: found one of '{name}'",
            hint="build the layer with sparse = false, or train it with one rank",
        )

    def _refuse(self, present: Sequence[bool]) -> None:
        before = self._present or ()
        changed = [name for name, now, then in zip(self._names, present, before, strict=True) if now != then]
        raise TrainingError(
            f"other parameters have gradients than in the first update: found a change for {', '.join(changed[:5])}",
            hint="set find_unused_params = true under [trainer]",
        )


def _buffer(members: Sequence[Parameter], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Return a flat buffer, and its parts in the shapes of the parameters."""
    flat = torch.zeros(sum(parameter.numel() for parameter in members), dtype=dtype, device=device)
    parts = torch.split(flat, [parameter.numel() for parameter in members])
    return flat, [part.view(parameter.shape) for part, parameter in zip(parts, members, strict=True)]
