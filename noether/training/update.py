"""Update: all accumulation steps of one update and its optimizer step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noether.core.models.agreement import require_agreement, require_same_names, state_names
from noether.core.models.base import ModelBase
from noether.data.samplers import TRAINING, TaggedBatch
from noether.kernel.progress import Stopwatch
from noether.optim.kernels import lay_out, local, require_scalable
from noether.optim.model_optimizer import ModelOptimizer
from noether.training.accumulation import Accumulation, Adds, Weights, shown, weights_of
from noether.training.buffers import KeptBuffers
from noether.training.nonfinite import FiniteGuard, step_masked
from noether.training.precision import Precision
from noether.training.trainers.types import TrainerResult, as_loss, check_graph, check_parts, detached, run_backward

# torch.set_grad_enabled is a context manager that also works as a call, at four times the price of what it calls.
_set_grad_enabled = torch._C._set_grad_enabled

StepOutcome: TypeAlias = tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Stopwatch]]
"""Losses by name with their `total`, additional outputs, and stopwatches of one accumulation step."""
UpdateOutcome: TypeAlias = tuple[dict[str, Tensor], dict[str, Tensor] | None, bool | Tensor | None]
"""Losses and outputs of the last accumulation step, and the verdict on the update; see `Update`."""
BeforeOptimizer: TypeAlias = Callable[[ModelBase], object]
AfterStep: TypeAlias = Callable[[Any, dict[str, Tensor], dict[str, Tensor] | None, int, int], object]
"""Takes batch, losses, outputs, number of accumulation steps, and which of them this was, from 0."""


class Update:
    """One whole update, run eagerly.

    For each accumulation step it takes a batch, runs forward and backward pass, and calls `after_step`; after the last
    backward pass it unscales, calls `before_optimizer_step`, and clips, masks, applies and releases the gradients. It
    knows no trainer, writer or callback: what they do within an update is passed to `begin` as two callables.

    Another implementation (compiled, or one captured graph) takes its place if it keeps to this:

    - Learning rates are given: they stand as values in the optimizers' groups before the call, which reads no schedule
      and no counter. A captured update copies them to the tensors that its graph reads.
    - Losses and outputs belong to the caller: a captured update copies them out of the buffers of its graph.
    - The verdict is a bool if the host knows, otherwise `applied`. Nothing waits for it.
    - `last_loss`, `applied` and `verdict` are set before `after_step` is called, which is called for every batch.
    - `times` may lack parts: the clock is read between parts here because they are separate calls.
    - Batches are taken one at a time. `ClosureUpdate` is the update of an optimizer that evaluates the loss itself
      (LBFGS).

    This runs at every update, so it keeps to plain calls: no context is entered in float32, no string is built, and
    losses stay tensors.

    Args:
        train_step: Forward pass and loss of one batch.
        precision: Autocast and scaler.
        guard: Decides whether an update may be applied.
        accumulation_steps: Accumulation steps of an update.
        to_device: Moves a batch to the device; None if batches are there already.

    Attributes:
        form: Name of its form; see `noether.training.forms`.
        last_loss: Total loss of the last accumulation step, detached.
        applied: 1.0 if the last update was applied, else 0.0, on the device; None before the first update. Before the
            last accumulation step of an update it is 1.0 if that accumulation step's loss is finite.
        verdict: The same as a bool if the host knows it, otherwise `applied`.
        times: Seconds of the parts of the last update, `data_time` among them.
        is_scheduled: True if a learning rate or another value is set before each update.
        weighs: The ranks over which counts of losses are added up; None for one rank.
        loss_weights: Weights of the last losses in a mean over several accumulation steps; None if all are equal.
    """

    form = "eager"

    def __init__(
        self,
        train_step: Callable[[Any, torch.nn.Module], TrainerResult],
        precision: Precision,
        guard: FiniteGuard,
        *,
        accumulation_steps: int = 1,
        to_device: Callable[[Any], Any] | None = None,
    ) -> None:
        self.train_step = train_step
        self.precision = precision
        self.guard = guard
        self.accumulation_steps = accumulation_steps
        self.last_loss: Tensor | None = None
        self.applied: Tensor | None = None
        self.verdict: bool | Tensor | None = None
        self.times: dict[str, float] = {}
        self.loss_weights: Weights | None = None
        self.is_scheduled = False
        self.to_device = to_device
        self.weighs: Adds | None = None
        self._accumulate: Callable[..., StepOutcome] = self.accumulate
        self._before_optimizer_step: BeforeOptimizer | None = None
        self._after_step: AfterStep | None = None
        self._model: ModelBase | None = None
        self._fitted: ModelBase | None = None  # the model whose optimizers have seen gradients
        self._dist_model: torch.nn.Module | None = None
        self._optimizers: list[ModelOptimizer] = []
        self._torch_optimizers: list[torch.optim.Optimizer] = []
        self._state_names: frozenset[str] = frozenset()
        self._parameters: list[torch.nn.Parameter] = []
        self._accumulation: Accumulation | None = None
        self._is_weighing = False  # True if an accumulation step of the update under way had a count
        self._buffers: KeptBuffers | None = None
        # Used again at every accumulation step: they are read before the next one, and building them would cost more.
        self._forward_time, self._backward_time, self._update_time = Stopwatch(), Stopwatch(), Stopwatch()
        self._watches = {
            "forward_time": self._forward_time,
            "backward_time": self._backward_time,
            "update_time": self._update_time,
        }

    def follow(
        self,
        train_step: Callable[[Any, torch.nn.Module], TrainerResult],
        accumulate: Callable[..., StepOutcome] | None = None,
    ) -> None:
        """Set the train step, and the callable in place of the method `accumulate`, for the training that begins.

        Args:
            train_step: Forward pass and loss of one batch.
            accumulate: The `update` of a trainer that has one of its own, with the signature of `accumulate`.
        """
        self.train_step, self._accumulate = train_step, accumulate or self.accumulate

    def begin(
        self,
        model: ModelBase,
        dist_model: torch.nn.Module,
        *,
        before_optimizer_step: BeforeOptimizer | None = None,
        after_step: AfterStep | None = None,
    ) -> None:
        """Set the model of the following updates, and the callables to call within them.

        Args:
            model: The unwrapped model, with its optimizers.
            dist_model: The model as the forward pass calls it.
            before_optimizer_step: Called on the unscaled gradients, before they are clipped.
            after_step: Called after each accumulation step, so that no batch is kept longer than that.
        """
        self.adopt(model, dist_model)
        if not self.guard.skip and self.precision.scaler is None:
            self._buffers = None  # an update that is not applied ends the run, so nothing is put back
        model.optimizer_zero_grad()  # an update that an error has ended may have left some of its gradients
        self.guard.forget()
        self.precision.forget()
        self._before_optimizer_step, self._after_step = before_optimizer_step, after_step

    def __call__(self, batches: Iterator[TaggedBatch]) -> UpdateOutcome:
        """Do one update with the next training batches.

        Loops stand where comprehensions would read better: a comprehension is a call, and this runs at every update.

        Args:
            batches: The stream; batches that an evaluation pass has left in it are passed over.
        """
        assert self._model is not None and self._dist_model is not None, "call begin first"
        model, dist_model = self._model, self._dist_model
        guard, after_step, total = self.guard, self._after_step, self.accumulation_steps
        times: dict[str, float] = {"data_time": 0.0}
        for index in range(total):
            started = perf_counter()
            tag, _, batch = next(batches)
            while tag != TRAINING:
                tag, _, batch = next(batches)
            if self.to_device is not None:
                batch = self.to_device(batch)
            losses, outputs, watches = self._accumulate(batch, dist_model, model, total, index)
            self.last_loss, self.applied = losses["total"], guard.applied
            self.verdict = not guard.was_skipped if guard.mask is None else self.applied
            if after_step is not None:
                after_step(batch, losses, outputs, total, index)
            # A trainer with an `update` of its own may have other watches, or may not have started them.
            forward_at = watches["forward_time"].started_at if "forward_time" in watches else started
            if forward_at > started:
                times["data_time"] += forward_at - started
            for part in watches:
                elapsed = watches[part].elapsed_seconds
                times[part] = times[part] + elapsed if index else elapsed
        self.times = times
        return losses, outputs, self.verdict

    def accumulate(
        self,
        batch: Any,
        dist_model: torch.nn.Module,
        model: ModelBase,
        accumulation_steps_total: int,
        accumulation_step: int,
        retain_graph: bool = False,
    ) -> StepOutcome:
        """Do one accumulation step, and the optimizer step after the last one; see `BaseTrainer.update`."""
        started = perf_counter()
        if model is not self._model:
            self.adopt(model, dist_model)
        if accumulation_step == 0 and self._buffers is not None and not self._buffers.keep():
            self._buffers = None
        result, share, forwarded = self._propagate(
            batch, dist_model, accumulation_steps_total, accumulation_step, retain_graph
        )
        propagated = perf_counter()
        if accumulation_step == accumulation_steps_total - 1:
            self._apply(model, share)
        else:
            self.guard.keep(share)
        count = result.count
        losses = {"total": share if count is None else result.total_loss.detach()}
        if result.losses_to_log:
            for name in result.losses_to_log:
                part = result.losses_to_log[name]
                if type(part) is not Tensor:
                    part = as_loss(name, part, share.device)
                losses[name] = losses["total"] if part is result.total_loss else part.detach()
        self.loss_weights = None if count is None else weights_of(result, 1.0)
        if count is not None:
            losses = shown(losses, result, accumulation_steps_total)
        outputs = result.additional_outputs
        if outputs:
            outputs = detached(outputs)
        self._forward_time.started_at = started
        self._forward_time.elapsed_seconds = forwarded - started
        self._backward_time.elapsed_seconds = propagated - forwarded
        self._update_time.elapsed_seconds = perf_counter() - propagated
        return losses, outputs, self._watches

    def _propagate(
        self, batch: Any, dist_model: torch.nn.Module, steps: int, step: int, retain_graph: bool
    ) -> tuple[TrainerResult, Tensor, float]:
        """Run forward and backward pass; return the result, its share in the update's loss, and the time between."""
        result: TrainerResult | None = None
        precision = self.precision
        were_enabled = torch.is_grad_enabled()
        _set_grad_enabled(True)  # the loop, hooks included, runs without gradients; only this does not
        try:
            if precision.dtype is None:
                returned = self.train_step(batch, dist_model)
            else:
                with precision.autocast():
                    returned = self.train_step(batch, dist_model)
            result = returned if type(returned) is TrainerResult else TrainerResult.of(returned)
            if result.count is not None:
                result.require_counts()
            if self._fitted is not self._model and result.losses_to_log:
                check_parts(result)
            forwarded = perf_counter()
            if steps > 1 or precision.scaler is not None or self.weighs is not None:
                return result, self._backward(result, steps, step, retain_graph=retain_graph), forwarded
            run_backward(result.total_loss, retain_graph=retain_graph)
            return result, result.total_loss.detach(), forwarded
        except (AttributeError, RuntimeError):
            if result is not None:
                check_graph(result)
            raise
        finally:
            _set_grad_enabled(were_enabled)

    def _backward(self, result: TrainerResult, steps: int, step: int, *, retain_graph: bool) -> Tensor:
        """Run the backward pass of a scaled loss, or of one of several accumulation steps; return its share."""
        total, scaler = result.total_loss, self.precision.scaler
        scale = _unscaled if scaler is None else scaler.scale
        if (steps > 1 or self.weighs is not None) and (result.count is not None or self._is_weighing):
            if not self._is_weighing or self._accumulation is None:
                self._accumulation = Accumulation(self._parameters, self.weighs)
            self._is_weighing = step < steps - 1
            return self._accumulation.backward(result, steps, step, scale, retain_graph=retain_graph)
        loss = total if steps == 1 else total / steps
        run_backward(scale(loss), retain_graph=retain_graph)
        return total.detach()

    def form_state(self) -> dict[str, Any]:
        """Return the form of the next update with all that decides about the forms of later ones, for a checkpoint."""
        return {"form": self.form}

    def take_form(self, state: Mapping[str, Any]) -> None:
        """Go on in the form of `form_state`; a form of its own may have given way to the eager one."""

    def look_again(self) -> None:
        """Take note that hooks have run, which may have changed the model."""

    def recall(self, last_loss: Tensor | None) -> None:
        """Set the loss of an update that an earlier session has done, for the round that repeats its hooks."""
        self.last_loss = last_loss

    @property
    def is_unfinished(self) -> bool:
        """True between two accumulation steps of an update."""
        return bool(self.guard.kept)

    def adopt(self, model: ModelBase, dist_model: torch.nn.Module) -> None:
        """Remember a model, its optimizers and its buffers, so that no update has to collect them."""
        self._dist_model, self._state_names = dist_model, state_names(model)
        self._buffers = KeptBuffers(dist_model, model)
        self.take_optimizers(model)

    def take_optimizers(self, model: ModelBase) -> None:
        """Remember the optimizers of a model and their parameters, of which there may be more than before."""
        self._model = model
        self._optimizers = list(model.optimizers().values())
        self._parameters = [parameter for optimizer in self._optimizers for parameter in optimizer.parameters]
        self._accumulation, self._is_weighing = None, False
        self._torch_optimizers = [optimizer.torch_optimizer for optimizer in self._optimizers]
        self._fitted = None
        self.is_scheduled = any(optimizer.scheduled for optimizer in self._optimizers)
        for optimizer in self._optimizers:
            optimizer.on_change = partial(self.take_optimizers, model)
            if self.precision.scaler is not None:
                require_scalable(dict(zip(optimizer.names, optimizer.parameters, strict=True)), self.precision.name)
        self.guard.adopt(self._torch_optimizers)

    def _fit(self, model: ModelBase) -> None:
        """Let the optimizers of a model see its first gradients, before the guard asks which mask they take.

        Raises:
            TrainingError: if the forward pass has registered a parameter or a buffer.
        """
        require_agreement(model)
        require_same_names(model, self._state_names, "the forward pass")
        for optimizer in model.optimizers().values():
            optimizer.fit_to_gradients()
        self.take_optimizers(model)
        self._fitted = model

    def _apply(self, model: ModelBase, loss: Tensor) -> None:
        """Clip and apply the gradients if they are finite, else undo the forward passes; release them in any case."""
        if model is not self._fitted:
            self._fit(model)
        scaler = self.precision.scaler
        if scaler is not None:
            for optimizer in self._optimizers:
                if optimizer.has_gradients:
                    scaler.unscale_(optimizer.torch_optimizer)
        if self._before_optimizer_step is not None:
            self._before_optimizer_step(model)
            if lay_out(self._parameters) and sum(optimizer.fit_to_gradients() for optimizer in self._optimizers):
                self.take_optimizers(model)  # the guard's mask follows from their kernels
                self._fitted = model
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if self.weighs is not None:
            gradients = list(map(local, gradients))
        guard = self.guard
        if guard.admits(loss, gradients, scaler):
            if guard.mask is None:
                model.optimizer_step(scaler)
            else:
                step_masked(model, self._torch_optimizers, guard.mask)
                if self._buffers is not None:
                    self._buffers.put_back(guard.mask)
        else:
            for optimizer in self._optimizers:
                optimizer.measure()
            if self._buffers is not None:
                self._buffers.put_back()
        if scaler is not None and gradients:
            scaler.update()
        model.optimizer_zero_grad()


class Substitute(Update):
    """An update that takes the place of an eager one, `plain`, with its settings; it keeps it for another model."""

    def __init__(self, plain: Update) -> None:
        super().__init__(
            plain.train_step,
            plain.precision,
            plain.guard,
            accumulation_steps=plain.accumulation_steps,
            to_device=plain.to_device,
        )
        self.plain = plain


def _unscaled(loss: Tensor) -> Tensor:
    return loss


def step_of(model: torch.nn.Module) -> Callable[[Any], TrainerResult] | None:
    """Return the `train_step(batch)` of a model; None if it has none that a batch alone is enough for."""
    own = getattr(model, "train_step", None)
    if not callable(own):
        return None
    try:
        inspect.signature(own).bind(None)
    except (TypeError, ValueError):
        return None

    def step(batch: Any) -> TrainerResult:
        result = own(batch)
        return result if isinstance(result, TrainerResult) else TrainerResult.of(result)

    return step
