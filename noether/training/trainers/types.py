"""Losses: values that `loss_compute` may return, the TrainerResult that `train_step` returns, and backward passes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode

from noether.data.collators import named_parts
from noether.errors import TrainingError

Count: TypeAlias = float | Tensor | Literal["sum"]
"""Number of the values that a loss is a mean of, in any unit; "sum" for a loss that is a sum over the batch."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A loss with the number of the values that it is a mean of.

    Several accumulation steps, or the batches of an evaluation, are put together by it, so that the result is that of
    all their samples as one batch. A loss without a count has to be a mean over the samples of its batch.

    Attributes:
        loss: The loss of one batch.
        count: Number of valid points, tokens or the like, possibly a tensor; or "sum".
    """

    loss: Tensor
    count: Count

    def __post_init__(self) -> None:
        require_count(self.count)

    def __mul__(self, weight: float) -> Counted:
        """Return the loss times a weight, with the same count."""
        return Counted(self.loss * weight, self.count)

    __rmul__ = __mul__


LossResult: TypeAlias = (
    Tensor | Counted | list[Tensor | Counted | float] | dict[str, Tensor] | Mapping[str, Tensor | Counted | float]
)
"""The total loss alone, or its parts, by name or in a list; their sum is the total."""
"""One loss, several, or several with names; their sum is what is optimized."""


@dataclass(slots=True)
class TrainerResult:
    """Outcome of a forward pass with its loss.

    Attributes:
        total_loss: The scalar that is differentiated.
        losses_to_log: The named parts of it.
        additional_outputs: The `update_outputs` of callbacks.
        count: Number of the values that the total and its parts are means of, or counts of the parts by name, whose sum
            the total then is; None, or a part without a count, for a mean over the samples of the batch.
    """

    total_loss: Tensor
    losses_to_log: dict[str, Tensor] | None = None
    additional_outputs: dict[str, Any] | None = None
    count: Count | dict[str, Count] | None = None

    def require_counts(self) -> None:
        """Check the counts, if there are some; a result without any costs no call in an update.

        Raises:
            TrainingError: if one is neither a number from 0 on nor "sum", or is that of an unknown loss.
        """
        counts = self.count if isinstance(self.count, Mapping) else {"total": self.count}
        for count in counts.values():
            require_count(count)
        if isinstance(self.count, Mapping) and (unknown := self.count.keys() - (self.losses_to_log or {}).keys()):
            raise TrainingError(
                f"counts of unknown losses: found {sorted(unknown)}, expected names of losses_to_log",
                hint="give the count of the total as one number, and add up the losses that have counts of their own",
            )

    @classmethod
    def of(cls, losses: LossResult | tuple[LossResult, dict[str, Any]] | TrainerResult) -> TrainerResult:
        """Name and add up the losses that `loss_compute`, or a train step in place of a result, returned.

        Raises:
            TrainingError: if it contains no loss, or something else than losses; names the part.
        """
        outputs = None
        if type(losses) is not dict:  # named losses stay as they are, and this runs at every accumulation step
            if isinstance(losses, TrainerResult):
                if losses.count is not None:
                    losses.require_counts()
                return losses
            losses, outputs = _named(losses)
        total, count = None, None
        for name in losses:
            part = losses[name]
            if type(part) is not Tensor:
                losses, count = _tensors(losses)
                total = functools.reduce(operator.add, losses.values())
                break
            try:
                total = part if total is None else total + part
            except RuntimeError:
                check_total(part, losses)
                raise
        if total is None:
            raise _no_loss(losses)
        if type(total) is not Tensor or total.ndim:
            check_total(total, losses)
        if "total" in losses and len(losses) > 1:
            raise TrainingError(
                "wrong name of a loss: found 'total', which is the name of their sum",
                hint="give it another name",
            )
        return cls(total, losses, outputs, count)


def require_count(count: Any) -> None:
    """Check the number of values that a loss is a mean of.

    Raises:
        TrainingError: if it is neither one number from 0 on nor "sum".
    """
    if isinstance(count, Tensor):
        is_one = count.ndim == 0 and not count.is_complex()  # its sign is on the device
    else:
        is_one = count == "sum" if isinstance(count, str) else isinstance(count, Real) and float(count) >= 0.0
    if not is_one:
        found = f"a tensor {tuple(count.shape)} of {count.dtype}" if isinstance(count, Tensor) else repr(count)
        raise TrainingError(
            f"wrong count of a loss: found {found}, expected the number of the values that it is a mean of",
            hint='return Counted(loss, mask.sum()), Counted(loss, len(x)), or Counted(loss, "sum") for a sum',
        )


class LossFacts:
    """Facts about the loss of a trainer, for callbacks and `noether plan`.

    Attributes:
        has_masks: True if a `mask` of a batch has its valid points: of a collator, or listed in target_properties.
        average: The values that the loss is a mean of, in words.
        ignore_index: Target class that the loss leaves out, and metrics with it; None without one.
        different_shapes: True if the loss means to compare outputs with targets of another shape, which broadcast.
    """

    has_masks = False
    average: str = "taken as a mean over samples, unless it returns Counted(loss, n)"
    ignore_index: int | None = None
    different_shapes: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take a class with a `train_step` of its own as complete without `loss_compute`."""
        super().__init_subclass__(**kwargs)
        owner = {name: parent for parent in reversed(cls.__mro__) for name in vars(parent)}
        has_own_step = owner.get("train_step") is not owner.get("loss_compute")
        if has_own_step and getattr(getattr(cls, "loss_compute", None), "__isabstractmethod__", False):
            cls.loss_compute = _no_loss_compute  # type: ignore[attr-defined]  # before ABCMeta looks

    @classmethod
    def loss_names(cls, config: Any) -> tuple[str, ...] | None:
        """Return the names of the losses of this class's `train_step`, beside `total`; None if they are not known."""
        return None


def _no_loss_compute(self: LossFacts, forward_output: Any, targets: Any) -> Any:
    """Refuse the call: this trainer has a train step only."""
    raise NotImplementedError(f"{type(self).__name__} defines no loss_compute, which its train_step calls")


def _named(losses: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    outputs = None
    if isinstance(losses, tuple):
        if len(losses) != 2 or not isinstance(losses[1], Mapping | None):
            raise TrainingError(
                f"wrong losses of a batch: found a tuple of {', '.join(type(one).__name__ for one in losses)}, "
                "expected losses and a dict of further outputs",
                hint='return losses, {"name": value}; several losses are a list or a dict',
            )
        losses, outputs = losses
    if isinstance(losses, Tensor | Counted):
        return {"loss": losses}, outputs
    if isinstance(losses, list):
        return {f"loss_{index}": loss for index, loss in enumerate(losses)}, outputs
    if isinstance(losses, Mapping):
        return dict(losses), outputs
    raise _no_loss(losses)


def _no_loss(losses: Any) -> TrainingError:
    return TrainingError(
        f"wrong losses of a batch: found {losses!r}, expected at least one loss",
        hint="return a tensor, or a list or dict of tensors with at least one in it",
    )


def _tensors(losses: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Count] | None]:
    """Return losses as tensors with their counts; parts may be numbers, or have a count."""
    counts = {name: part.count for name, part in losses.items() if isinstance(part, Counted)}
    plain = {name: part.loss if isinstance(part, Counted) else part for name, part in losses.items()}
    device = next((part.device for part in plain.values() if isinstance(part, Tensor)), None)
    if device is None:
        check_total(next(iter(plain.values()), None), plain)
    return {name: as_loss(name, part, device) for name, part in plain.items()}, counts or None


def as_loss(name: str, part: Any, device: torch.device | None = None) -> Tensor:
    """Return a part of a loss as a tensor; a number, such as the 0.0 of a penalty that is switched off, is one.

    Raises:
        TrainingError: if it is neither a tensor nor a number; names it.
    """
    if isinstance(part, Tensor):
        return part
    if isinstance(part, Real) and not isinstance(part, bool):
        return torch.tensor(float(part), device=device)
    raise TrainingError(
        f"wrong type of the loss '{name}': found {type(part).__name__}, expected a tensor or a number",
        hint=f"return a tensor as '{name}', or leave it out; nested losses need names of their own",
    )


def detached(outputs: Any) -> Any:
    """Return additional outputs without their graphs; those that are None are left out, other values stay."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, Mapping):
        kept = {}
        for name in outputs:  # plain steps: this runs at every accumulation step
            value = outputs[name]
            if value is not None:
                kept[name] = value.detach() if type(value) is Tensor else detached(value)
        return kept
    return type(outputs)(map(detached, outputs)) if type(outputs) in (list, tuple) else outputs


def check_total(total: Any, losses: Mapping[str, Any] | None) -> None:
    """Refuse a total that cannot be differentiated; a subclass of Tensor can.

    Raises:
        TrainingError: if it is not a scalar tensor, or has no graph while gradients are enabled.
    """
    if not isinstance(total, Tensor):
        number = isinstance(total, Real)
        name = next((f" '{name}'" for name, part in (losses or {}).items() if part is total and name != "loss"), "")
        raise TrainingError(
            f"wrong type of the loss{name}: found {type(total).__name__}, expected a tensor",
            hint="remove .item() and float() from the loss"
            if number
            else "return a tensor, or parts with names of their own: {'mse': …, 'penalty': …}",
        )
    if total.ndim:
        shapes = {name: tuple(part.shape) for name, part in (losses or {}).items() if isinstance(part, Tensor)}
        found = ", ".join(f"'{name}' of {shape}" for name, shape in shapes.items() if shape)
        raise TrainingError(
            f"wrong shape of the loss: found {found or tuple(total.shape)}, expected one number for the batch",
            hint='reduce it, for example with .mean(), or reduction = "mean"',
        )


def run_backward(loss: Tensor, *, retain_graph: bool = False) -> None:
    """Do what `loss.backward()` does, without the 26 calls that torch makes around its engine.

    What is not a plain loss, a real number of type `Tensor`, is left to torch with its checks.

    Args:
        loss: The loss.
        retain_graph: Keep the graph.
    """
    if type(loss) is not Tensor or loss.ndim or not loss.dtype.is_floating_point:
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]  # untyped in torch
        return
    one = torch.ones_like(loss)  # a new one each time, as in torch: a gradient may share its memory
    _engine_run_backward((loss,), (one,), retain_graph, False, (), allow_unreachable=True, accumulate_grad=True)


def check_graph(result: TrainerResult) -> None:
    """Refuse a total that does not depend on a parameter; called if its backward pass fails.

    Raises:
        TrainingError: if it does not; names the losses.
    """
    check_total(result.total_loss, result.losses_to_log)
    if not result.total_loss.is_floating_point():
        raise TrainingError(
            f"wrong type of the loss: found {result.total_loss.dtype}, expected real floating-point numbers",
            hint="take the real part or the absolute value of a complex loss",
        )
    if not result.total_loss.requires_grad:
        names = ", ".join(f"'{name}'" for name in result.losses_to_log or ()) or "the total"
        raise TrainingError(
            f"loss without a graph: found {names}, on which no backward pass can begin, expected a loss that depends "
            "on a trainable parameter",
            hint="remove .detach(), torch.no_grad() and .data from model and loss, and do not freeze everything in use",
        )


def check_parts(result: TrainerResult) -> None:
    """Refuse a total that is not what its parts say; called for the first update, because it reads the losses.

    Raises:
        TrainingError: if a part called `total` is another number, or parts with counts do not add up to the total.
    """
    parts, total = result.losses_to_log or {}, result.total_loss.detach()
    named = parts.get("total", total)
    whole = sum(parts.values()) if isinstance(result.count, Mapping) else total
    for found, of in ((named, "the part 'total'"), (whole, "the sum of the parts that have counts")):
        value = torch.as_tensor(found, device=total.device).detach()
        if value.ndim == 0 and not torch.isclose(value.double(), total.double(), rtol=1e-3, equal_nan=True):
            raise TrainingError(
                f"wrong losses of a train step: found {of} = {float(value):.6g}, expected the total {float(total):.6g}",
                hint="name the parts of the loss in losses_to_log, and return their sum as total_loss; return other "
                "values to log in additional_outputs",
            )


_COMPARISONS = frozenset(["sub", "subtract", "rsub", "sub_", "mul", "multiply", "div", "divide"])
_LOSSES = frozenset(["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])


class NoBroadcasting(TorchFunctionMode):
    """Refuse that a loss compares every sample with every other: (batch, 1) and (batch,) are (batch, batch) then.

    It looks at losses of torch, and at differences, products and quotients of a target with what depends on a
    parameter. A comparison of all pairs that a loss asks for, `a[:, None] - b[None]`, has a dimension more.

    Args:
        output: Output of the model.
        targets: Target properties of the batch.
    """

    def __init__(self, output: Any = None, targets: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        found = [tensor for tensor in (targets or {}).values() if isinstance(tensor, Tensor)]
        self._places = {_storage(tensor) for tensor in found}
        self._ndim = max((tensor.ndim for tensor in [*found, *_tensors_in(output)]), default=0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function after a look at the shapes of its operands."""
        name = getattr(func, "__name__", "")
        if name in _LOSSES or (self._places and name in _COMPARISONS):
            operands = [value for value in [*args, *(kwargs or {}).values()] if isinstance(value, Tensor)][:2]
            if len(operands) == 2 and operands[0].shape != operands[1].shape:
                self._look_at(name, *operands)
        return func(*args, **(kwargs or {}))

    def _look_at(self, name: str, one: Tensor, other: Tensor) -> None:
        try:
            shape = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]  # untyped in torch
        except RuntimeError:
            return  # torch says it
        if shape.numel() <= max(one.numel(), other.numel()) or not (one.requires_grad or other.requires_grad):
            return
        is_target = [_storage(tensor) in self._places for tensor in (one, other)]
        if name not in _LOSSES and (is_target[0] is is_target[1] or len(shape) > self._ndim):
            return
        raise TrainingError(
            f"wrong shapes in the loss: found {tuple(one.shape)} and {tuple(other.shape)}, which broadcast to "
            f"{tuple(shape)}, so that every sample is compared with every other; expected equal shapes",
            hint="reshape one of them: y.unsqueeze(-1), or output.squeeze(-1); or set `different_shapes = True` on the "
            "trainer's class, if its loss means to",
        )


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    parts = value if isinstance(value, list | tuple) else (named_parts(value) or {}).values()
    for part in parts:
        yield from _tensors_in(part)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)
