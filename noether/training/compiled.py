"""The compiled form of an update: forward pass, backward pass and optimizer as one Inductor graph on a CPU."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from noether.core.models.base import ModelBase
from noether.core.models.recompute import recomputed
from noether.errors import CheckpointError
from noether.kernel.progress import Stopwatch
from noether.optim.functional import FunctionalStep, step_refusal
from noether.optim.kernels import sharing
from noether.training.another_form import LOG, MOST_SHAPES, AnotherForm, UnfitError, common_refusal, hook_refusal
from noether.training.compiled_step import CompiledStep
from noether.training.state import TrainerParts, may_change_at_every_update
from noether.training.update import StepOutcome, Update

Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...], Any], ...]
"""Name, shape and type of numbers of each tensor of a batch."""


def refusal(trainer: TrainerParts, model: ModelBase) -> str | None:
    """Return the reason why the updates of a trainer cannot be compiled, as far as it is known before the first one."""
    config = trainer.config
    reasons = {
        f"the device is {trainer.device}, expected cpu": trainer.device.type != "cpu",
        f"precision is {config.precision}, expected float32": trainer.precision.dtype is not None,
        "use_torch_compile compiles the forward pass already": config.use_torch_compile,
    }
    for reason, applies in reasons.items():
        if applies:
            return reason
    return common_refusal(trainer, model) or _refusal_of_model(model) or missing_compiler()


def _refusal_of_model(model: ModelBase) -> str | None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            return f"the gradients of '{name}' are sparse"
    for method in ("optimizer_step", "optimizer_zero_grad"):
        if not getattr(type(model), method).__module__.startswith("noether."):
            return f"the model has a method {method} of its own"
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if recomputed(model):
        return "`checkpoint` under [model] names modules, and torch cannot trace their recomputation in such a graph"
    if shared := sharing(trained):
        return f"parameters '{shared[0]}' and '{shared[1]}' share memory"
    optimizers = model.optimizers().values()
    reasons = (hook_refusal(model, optimizers), *map(step_refusal, optimizers))
    return next((reason for reason in reasons if reason is not None), None)


def _dtype(name: str = "torch.float32") -> torch.dtype:
    """Return a type of values by its name; a checkpoint of an earlier version names none."""
    found = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(
            f"damaged form of the updates: found a type of values {name!r}, expected one such as 'torch.float32'",
            hint="resume from an older checkpoint",
        )
    return found


def missing_compiler() -> str | None:
    """Return the reason if the compiler that Inductor will call is not there; without importing Inductor."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(name) else f"no C++ compiler was found: {name} is not on the PATH (set CXX to one)"


def build(trainer: TrainerParts, update: Update, model: ModelBase) -> Update:
    """Return the compiled update that takes the place of an eager one."""
    return CompiledUpdate(update, looks_always=may_change_at_every_update(trainer))


class CompiledUpdate(AnotherForm):
    """An update whose accumulation steps are graphs; the graph of the last one applies the gradients as well.

    A graph is made for each shape of a batch, up to `MOST_SHAPES`; batches of further shapes run eagerly. The shapes
    are part of a checkpoint, so that a resumed run makes the same choices. Everything that a graph has read from model,
    loss and optimizer is guarded: if it changes, or if a graph cannot be made, the run goes on eagerly to its end, and
    says why in one line.

    Args:
        plain: The eager update that it takes the place of.
        looks_always: True if hooks of every update may change the model; otherwise only `look_again` says so.
    """

    form = "compiled"

    def __init__(self, plain: Update, *, looks_always: bool = False) -> None:
        super().__init__(plain, looks_always=looks_always)
        self._shapes: list[Shapes] = []
        self._graphs: dict[tuple[Shapes, bool, bool], CompiledStep | None] = {}  # None for a batch that runs eagerly
        self._optimizer_steps: list[FunctionalStep] = []
        self._losses: list[Tensor] = []  # of the accumulation steps of the update under way
        self._watch, self._no_time = Stopwatch(), Stopwatch()
        self._no_time.elapsed_seconds = 0.0
        self._parts = {"forward_time": self._no_time, "update_time": self._watch}

    # The form

    def form_state(self) -> dict[str, Any]:
        """Return the form of the next update, and the shapes that have graphs, for a checkpoint."""
        if self.reason is not None or not self._is_valid():
            return {"form": "eager"}  # a graph that does not hold any more gives way in the next update
        return {
            "form": self.form,
            "shapes": [[[name, list(shape), str(kind)] for name, shape, kind in shapes] for shapes in self._shapes],
        }

    def _is_valid(self) -> bool:
        return self._change() is None and all(graph.is_valid() for graph in self._graphs.values() if graph is not None)

    def _change(self) -> str | None:
        """Return the reason why graphs cannot be made or used any more, apart from what their guards look at."""
        if not all(step.is_current() for step in self._optimizer_steps):
            return "the state, the groups or the clipping of the optimizer changed"
        return super()._change()

    def take_form(self, state: Mapping[str, Any]) -> None:
        """Go on in the form of `form_state`."""
        if state["form"] != self.form:
            self.give_way("as in the checkpoint")
        self._shapes = [
            tuple((name, tuple(shape), _dtype(*kind)) for name, shape, *kind in shapes)
            for shapes in state.get("shapes", ())
        ]

    def _forget(self) -> None:
        """Let all graphs go."""
        self._graphs, self._optimizer_steps = {}, []

    def look_again(self) -> None:
        """Let guards look at what graphs have read before they are used again: hooks may have changed it."""
        super().look_again()
        for graph in self._graphs.values():
            if graph is not None:
                graph.look_again()

    def take_optimizers(self, model: ModelBase) -> None:
        """Remember the optimizers of a model; graphs that were made for fewer groups cannot be used any more."""
        super().take_optimizers(model)
        if self._optimizer_steps and not self._has_same_optimizers():
            self.give_way("the parameter groups of the optimizer changed")

    def _has_same_optimizers(self) -> bool:
        known = [step.optimizer for step in self._optimizer_steps]
        return known == self._optimizers and all(step.is_current() for step in self._optimizer_steps)

    # An accumulation step

    def accumulate(
        self,
        batch: Any,
        dist_model: nn.Module,
        model: ModelBase,
        accumulation_steps_total: int,
        accumulation_step: int,
        retain_graph: bool = False,
    ) -> StepOutcome:
        """Do one accumulation step as one graph, with the optimizer step if it is the last one; see `Update`."""
        started = perf_counter()
        if model is not self._model:
            self.adopt(model, dist_model)
        is_first, is_last = accumulation_step == 0, accumulation_step == accumulation_steps_total - 1
        if is_first:
            self._losses = []
        graph = None
        if self.reason is None and self._holds():
            graph = self._graph_for(batch, is_first=is_first, is_last=is_last, steps=accumulation_steps_total)
        if graph is not None:
            if is_first and not is_last and self._buffers is not None and not self._buffers.keep():
                self._buffers = None
            outcome = self._run(graph, batch, is_first=is_first, is_last=is_last)
            if outcome is not None:
                self._watch.started_at = self._no_time.started_at = started
                self._watch.elapsed_seconds = perf_counter() - started
                return *outcome, self._parts
        done = super().accumulate(batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph)
        self._losses.append(done[0]["total"])
        return done

    def _run(
        self, graph: CompiledStep, batch: Any, *, is_first: bool, is_last: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None] | None:
        """Run a graph and settle what it computed; None if something changed, and nothing was done."""
        steps = self._optimizer_steps
        for step in steps:
            step.refresh()
        gradients = None if is_first else [p.grad for p in self._parameters if p.grad is not None]
        earlier = None if is_first or not is_last else torch.stack(self._losses)
        try:
            losses, outputs, flag, norms, computed = graph(batch, gradients, earlier)
        except UnfitError as error:
            self.give_way(str(error))
            return None
        self.loss_weights = None
        if not is_last:
            if is_first:
                for parameter, gradient in zip(self._parameters, computed, strict=True):
                    parameter.grad = gradient
            self._losses.append(losses["total"])
            self.guard.keep(losses["total"])
            return losses, outputs
        for step, norm in zip(steps, norms, strict=True):
            if norm is not None:
                step.optimizer.last_grad_norm = norm
        if not self.guard.admits(flag, []) and not is_first and self._buffers is not None:
            self._buffers.put_back()
        if not is_first:
            self._model.optimizer_zero_grad()  # type: ignore[union-attr]  # adopted above
        return losses, outputs

    def _graph_for(self, batch: Any, *, is_first: bool, is_last: bool, steps: int) -> CompiledStep | None:
        """Return the graph for a batch, made if it is the first of its shape; None if it runs eagerly."""
        if type(batch) is not dict:
            self.give_way(f"a batch is a {type(batch).__name__}, expected a dict of tensors")
            return None
        kinds = [(name, getattr(value, "shape", ()), getattr(value, "dtype", None)) for name, value in batch.items()]
        key = (tuple(kinds), is_first, is_last)
        if key not in self._graphs:
            graph = self._made(batch, key, steps)
            if self.reason is not None:
                return None
            self._graphs[key] = graph
        return self._graphs[key]

    def _made(self, batch: dict[str, Any], key: tuple[Shapes, bool, bool], steps: int) -> CompiledStep | None:
        if stray := [name for name, value in batch.items() if not isinstance(value, Tensor)]:
            self.give_way(f"batches have values that are not tensors: '{stray[0]}'")
            return None
        shapes: Shapes = tuple((name, tuple(shape), kind) for name, shape, kind in key[0])
        if shapes not in self._shapes:
            if len(self._shapes) == MOST_SHAPES:
                return None
            self._shapes.append(shapes)
        assert self._model is not None, "adopted before"
        if not self._graphs:
            LOG.info("compiling updates: this takes some seconds, and more in a new environment")
        try:
            if not self._optimizer_steps and (reason := _refusal_of_model(self._model)) is not None:
                raise UnfitError(reason)  # it was not so before training
            optimizers = self._optimizer_steps or [FunctionalStep(optimizer) for optimizer in self._optimizers]
            graph = CompiledStep(self.train_step, self._model, optimizers, is_first=key[1], is_last=key[2], count=steps)
            graph.look_at(batch)
        except UnfitError as error:
            self.give_way(str(error))
            return None
        if not self._optimizer_steps:
            self._optimizer_steps = optimizers
            for optimizer in optimizers:
                optimizer.create_state()
        return graph
