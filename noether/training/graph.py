"""GraphUpdate: one whole update as one captured graph, equal to the eager one bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from noether.core.models.base import ModelBase
from noether.data.samplers import TRAINING, TaggedBatch
from noether.metrics.device import Device, device_of
from noether.optim.kernels import single
from noether.training.another_form import MOST_SHAPES, AnotherForm, UnfitError, common_refusal
from noether.training.buffers import KeptBuffers
from noether.training.graph_layout import (
    Captured,
    Copies,
    GraphGuard,
    filled,
    laid_out,
    placed,
    refilled,
)
from noether.training.nonfinite import DeviceGuard, takes_found_inf
from noether.training.rehearsal import (
    Attributes,
    Facts,
    Rehearsal,
    Snapshot,
    addresses_of,
    difference,
    facts_of,
    unread,
)
from noether.training.state import TrainerParts, may_change_at_every_update
from noether.training.update import Update, UpdateOutcome

WARM_UPS = 3
"""Eager updates of one shape in a row, before the next one is captured: kernels are chosen and states are made."""

_REHEARSED = WARM_UPS + 2  # updates of a rehearsal: replays have to go on from one another
_READ: tuple[str, ...] = ("lr", "capturable")  # options of a group that a capture has other values of
_LR = 1e-3  # of a rehearsal at a learning rate of zero, which would prove nothing


class GraphUpdate(AnotherForm):
    """An update that is one graph: accumulation steps, autocast, scaler, clipping, mask and optimizer step.

    The first updates of a shape run eagerly, and are real ones. Before the very first, a rehearsal on the real objects,
    whose state is put back, proves that eager updates repeat bit for bit and that replays equal them. An update of
    another shape runs eagerly until there were enough of them in a row. If something that the graph has baked in
    changes, one line says so and all later updates are eager ones.

    Hooks of accumulation steps are called after the replay, in order, with copies of what it has left.

    Args:
        plain: The eager update that it takes the place of, with its settings.
        device: Streams and graphs.
        owner: The object that the train step is a method of.
        looks_always: True if hooks of every update may change the model; otherwise only `look_again` says so.
    """

    form = "graph"

    def __init__(self, plain: Update, device: Device, *, owner: object = None, looks_always: bool = False) -> None:
        super().__init__(plain, looks_always=looks_always)
        self._device = device
        self._owner = owner
        self._forget()

    def _forget(self) -> None:
        self._graphs: dict[Any, Captured] = {}
        self._proven: dict[Any, Facts] = {}
        self._facts: Facts = {}
        self._shape: Any = None
        self._in_a_row = 0
        self._rates: list[tuple[dict[str, Any], Tensor]] = []
        self._last_rates: list[float] = []

    def adopt(self, model: ModelBase, dist_model: torch.nn.Module) -> None:
        """Remember a model, its optimizers and its buffers; graphs of another one cannot be used."""
        super().adopt(model, dist_model)
        self._forget()

    def __call__(self, batches: Iterator[TaggedBatch]) -> UpdateOutcome:
        """Do one update with the next training batches."""
        if self.reason is not None:
            return super().__call__(batches)
        started = perf_counter()
        taken: list[Any] = []
        tensors: list[Tensor] = []
        for _ in range(self.accumulation_steps):
            tag, _, batch = next(batches)
            while tag != TRAINING:
                tag, _, batch = next(batches)
            taken.append(batch if self.to_device is None else self.to_device(batch))
        shape, waited = laid_out(taken, tensors), perf_counter() - started
        self._in_a_row = self._in_a_row + 1 if shape == self._shape else 1
        self._shape = shape
        captured = self._graphs.get(shape) or self._prepared(shape, taken, tensors)
        if captured is not None and self._is_current():
            return self._replay(captured, taken, tensors, waited)
        with self._device.aside():
            outcome = super().__call__(iter([TaggedBatch(TRAINING, 0, batch) for batch in taken]))
        self.times["data_time"] += waited
        return outcome

    # A graph, from the first update to its replays

    def _prepared(self, shape: Any, taken: list[Any], tensors: list[Tensor]) -> Captured | None:
        """Prove and capture an update of a new shape if it is time; None for an eager update."""
        is_ripe = self._in_a_row > WARM_UPS and len(self._graphs) < MOST_SHAPES
        if not is_ripe and self._proven:
            return None
        try:
            if (reason := self._change()) is not None:
                raise UnfitError(reason)
            inputs = [tensor.detach().clone() for tensor in tensors]
            batches = refilled(taken, iter(inputs))
            facts = self._present_facts()
            if shape not in self._proven or difference(self._proven[shape], facts) is not None:
                self._prove(batches, inputs)
                self._proven[shape] = self._present_facts()  # a first update may set things up
            return self._capture(shape, batches, inputs) if is_ripe else None
        except UnfitError as error:
            self.give_way(str(error))
        except Exception as error:  # of a model or a library: the eager update raises it again if it is a mistake
            self.give_way(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        return None

    def _prove(self, batches: list[Any], inputs: list[Tensor]) -> None:
        """Rehearse eager updates twice and graphs once from the present state, and put the state back.

        Raises:
            UnfitError: if not all of them leave the same bits.
        """
        assert self._model is not None and self._dist_model is not None, "call begin first"
        snapshot = Snapshot((self._model, self._dist_model), self._optimizers, self.precision.scaler)
        attributes = Attributes((self._model, self._dist_model, self._owner))
        rehearsal = Rehearsal(snapshot, self._device, self._present_facts, _REHEARSED)
        fitted, counter = self._fitted, getattr(getattr(self._owner, "state", None), "counter", None)
        try:
            for update, otherwise in (
                (self._eager_trial(batches), ""),
                (self._eager_trial(batches), "eager updates do not repeat bit for bit"),
                (self._graph_trial(batches, inputs), "a replay does not leave the bits of an eager update"),
            ):
                kept = KeptBuffers(self._dist_model, self._model) if self._buffers is not None else None
                with self._apart(kept), unread(counter):
                    rehearsal.require_same(update, otherwise)
        except Exception:
            attributes.put_back()
            raise
        finally:
            self._fitted = fitted

    def _eager_trial(self, batches: list[Any]) -> Callable[[int], list[Tensor]]:
        """Return eager updates, the last of which may not wait for the device."""
        rates = _trial_rates(self._torch_optimizers)

        def update(number: int) -> list[Tensor]:
            tensors: list[Tensor] = []
            for group, rate in rates:
                group["lr"] = rate if number < _REHEARSED - 1 else rate / 2
            with self._device.refusing_waits() if number == _REHEARSED - 1 else nullcontext():
                placed(self._results(batches), tensors)
            return tensors

        return update

    def _graph_trial(self, batches: list[Any], inputs: list[Tensor]) -> Callable[[int], list[Tensor]]:
        """Return the same updates as replays, once they are warm."""
        eager, captured = self._eager_trial(batches), None
        rates = _trial_rates(self._torch_optimizers)

        def update(number: int) -> list[Tensor]:
            nonlocal captured
            if number < WARM_UPS:
                with self._device.aside():
                    return eager(number)
            if captured is None:
                self._make_rates()
                captured = self._recorded(batches, inputs)
            for (_, tensor), (_, rate) in zip(self._rates, rates, strict=True):
                tensor.fill_(rate if number < _REHEARSED - 1 else rate / 2)
            captured.graph.replay()
            return captured.copies.taken()

        return update

    def _capture(self, shape: Any, batches: list[Any], inputs: list[Tensor]) -> Captured:
        if self.guard.mask is None:
            raise UnfitError("the host decides whether an update is applied: an optimizer takes no mask")
        self._make_rates()
        with self._apart(self._buffers):
            captured = self._graphs[shape] = self._recorded(batches, inputs)
        self._facts = self._present_facts() | addresses_of(self._optimizers)
        self._has_to_look = False
        return captured

    def _make_rates(self) -> None:
        """Make the tensors that graphs read their learning rates from; all graphs of a run share them."""
        groups = [group for optimizer in self._torch_optimizers for group in optimizer.param_groups]
        if [id(group) for group, _ in self._rates] != list(map(id, groups)):
            device = self._parameters[0].device
            self._rates = [(group, torch.zeros((), device=device)) for group in groups]
        self._last_rates = []

    def _recorded(self, batches: list[Any], inputs: list[Tensor]) -> Captured:
        """Capture an update, with learning rates that are read from tensors."""

        def work() -> tuple[Any, Copies]:
            tensors: list[Tensor] = []
            results = placed(self._results(batches), tensors)
            return results, Copies(tensors)

        with self._reading_rates():
            graph, (results, copies) = self._device.capture(work)
        return Captured(graph, inputs, copies, results)

    def _results(self, batches: list[Any]) -> tuple[Any, ...]:
        """Do an update, and return all that it leaves but for the state of the model and its optimizers."""
        assert self._model is not None and self._dist_model is not None, "call begin first"
        guard, steps, total = self.guard, [], len(batches)
        assert isinstance(guard, GraphGuard), "apart from the run"
        for index, batch in enumerate(batches):
            losses, outputs, _ = self._accumulate(batch, self._dist_model, self._model, total, index)
            steps.append((losses, outputs, self.loss_weights, guard.applied))
        return steps, guard.flag, guard.mask, [optimizer.last_grad_norm for optimizer in self._optimizers]

    @contextmanager
    def _reading_rates(self) -> Iterator[None]:
        """Let the optimizers read their learning rates from tensors, as a graph has to."""
        kept = [(group, {key: group[key] for key in _READ if key in group}) for group, _ in self._rates]
        try:
            for group, rate in self._rates:
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = True
            yield
        finally:
            for group, options in kept:
                group.update(options)

    @contextmanager
    def _apart(self, buffers: KeptBuffers | None) -> Iterator[None]:
        """Do updates that the run does not count, with a guard of their own."""
        kept = self.guard, self._buffers, self.loss_weights
        self.guard, self._buffers = GraphGuard(self.guard.skip), buffers
        try:
            yield
        except BaseException:  # in the middle of an update
            if self._model is not None:
                self._model.optimizer_zero_grad()
            self._accumulation, self._is_weighing = None, False
            self.precision.forget()
            raise
        finally:
            self.guard, self._buffers, self.loss_weights = kept

    def _change(self) -> str | None:
        """Return the reason why graphs cannot be made or used any more."""
        reason = super()._change()
        if reason is None and self._facts:
            name = difference(self._facts, self._present_facts() | addresses_of(self._optimizers))
            return None if name is None else f"{name} changed since the graph was captured"
        return reason

    def _is_current(self) -> bool:
        """Give the graph the learning rates of the groups; return False if something that it has baked in changed."""
        if not self._holds():
            return False
        rates = [group["lr"] for group, _ in self._rates]
        if rates == self._last_rates:
            return True
        if not all(type(rate) is float for rate in rates):
            self.give_way("a learning rate is not a plain number")
            return False
        for (_, tensor), rate in zip(self._rates, rates, strict=True):
            tensor.fill_(rate)
        self._last_rates = rates
        return True

    def _present_facts(self) -> Facts:
        assert self._model is not None and self._dist_model is not None, "call begin first"
        return facts_of((self._model, self._dist_model), self._optimizers, self._owner)

    def _replay(self, captured: Captured, taken: list[Any], tensors: list[Tensor], waited: float) -> UpdateOutcome:
        """Do an update by its graph; then call the hooks of its accumulation steps."""
        started = perf_counter()
        torch._foreach_copy_(captured.inputs, tensors)
        captured.graph.replay()
        steps, flag, mask, norms = filled(captured.results, captured.copies.taken())
        assert isinstance(self.guard, DeviceGuard), "only such a guard masks"
        self.guard.count_masked(flag, mask, steps[-1][-1])
        for optimizer, norm in zip(self._optimizers, norms, strict=True):
            optimizer.last_grad_norm = norm
        self.times = {"data_time": waited, "update_time": perf_counter() - started}
        total, after_step = len(steps), self._after_step
        for index, (losses, outputs, weights, applied) in enumerate(steps):
            self.last_loss, self.loss_weights = losses["total"], weights
            self.applied = self.verdict = applied
            if after_step is not None:
                after_step(taken[index], losses, outputs, total, index)
        return losses, outputs, self.verdict


def _trial_rates(optimizers: Sequence[torch.optim.Optimizer]) -> list[tuple[dict[str, Any], float]]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [(group, single(float(group["lr"])) or single(_LR)) for group in groups]


# The form


def refusal(trainer: TrainerParts, model: ModelBase) -> str | None:
    """Return the reason why a prepared trainer cannot train a model by graphs; None if it can, as far as is known."""
    if device_of(trainer.device) is None:
        return f"the device is {trainer.device}, and only CUDA devices have graphs"
    if (reason := common_refusal(trainer, model)) is not None:
        return reason
    for optimizer in model.optimizers().values():
        kind = type(optimizer.torch_optimizer).__name__
        if not takes_found_inf(optimizer.torch_optimizer):
            return f"the optimizer {kind} has no fused kernel that takes a mask"
        if others := [scheduled.key for scheduled in optimizer.scheduled if scheduled.key != "lr"]:
            return f"a schedule sets {others[0]} of {kind}, which is a number inside of the graph"
    return None


def build(trainer: TrainerParts, update: Update, model: ModelBase) -> GraphUpdate:
    """Return the update of a prepared trainer as a graph."""
    device = device_of(trainer.device)
    assert device is not None, "refused before"
    return GraphUpdate(update, device, owner=trainer, looks_always=may_change_at_every_update(trainer))
