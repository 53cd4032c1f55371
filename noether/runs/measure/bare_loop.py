"""The bare loop: training as a user would write it by hand, with model, loss, optimizer and batches of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from noether.data.randomness import preserved_rng, rng_snapshot
from noether.kernel.names import TARGET
from noether.optim.model_optimizer import ModelOptimizer
from noether.runs.measure.hook_costs import now
from noether.runs.prepare import Run, built_model
from noether.training.optimizers import give_optimizers
from noether.training.precision import Precision
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.types import TrainerResult
from noether.training.trainers.weighted_loss import WeightedLossTrainer
from noether.training.update import step_of

Loss: TypeAlias = Callable[[Any], Tensor]
"""Takes a batch; returns the loss that is differentiated."""
Settings: TypeAlias = list[tuple[dict[str, Any], str, float]]
"""Values of the parameter groups that the schedules set for one update."""


class BareLoop:
    """Forward pass, loss, backward pass and optimizer step, and nothing else.

    Batches lie ready in memory, and the values of schedules are known before. It clips, scales and accumulates as the
    run does. There are no hooks, no metrics and no checks. Its random numbers are those of the run.

    Args:
        run: The run, ready to train.
    """

    def __init__(self, run: Run) -> None:
        trainer = run.trainer
        self._trainer, self._device, self._steps = trainer, trainer.device, trainer.accumulation_steps
        self._update = trainer.update_counter.update
        self._precision = Precision(trainer.config.precision, trainer.device)
        with preserved_rng():
            self.model = built_model(run.spec, run.data.first_sample(), trainer.device).to(trainer.device)
            self._called = trainer.wrap_model(self.model)
            give_optimizers(self.model, trainer.state.counter)
            workers, run.data.num_workers = run.data.num_workers, 0  # loading is not timed
            try:
                self._stream = (tagged.batch for tagged in trainer.get_data_loader([], trainer.batch_size))
                self._next = next(self._stream)
            finally:
                run.data.num_workers = workers
            for own, other in zip(self.model.modules(), run.model.modules(), strict=True):
                own.training = other.training
            if not self.model.training:
                self._called.train()
            self._loss = self._chosen(self._next)
            self.model.load_state_dict(run.model.state_dict())  # the choice may have changed its buffers
        self._optimizers = list(self.model.optimizers().values())
        for optimizer in self._optimizers:
            optimizer.begin_training()
        self._fits = False
        self._restore_rng = rng_snapshot()

    def train(self, updates: int, *, around: Callable[[Callable[[], None]], None] | None = None) -> float:
        """Train with the next batches, and return the seconds of the loop alone.

        Args:
            updates: Number of updates.
            around: Calls the loop, to measure it otherwise.
        """
        batches = [self._kept(batch) for batch in (self._next, *islice(self._stream, updates * self._steps - 1))]
        settings = self._settings(updates)
        restore_run = rng_snapshot()
        self._restore_rng()
        with torch.enable_grad():
            if not self._fits:
                self._fit(batches[0])
            if around is not None:
                around(lambda: self._loop(batches, settings))
            started = now(self._device)
            if around is None:
                self._loop(batches, settings)
            seconds = now(self._device) - started
        self._restore_rng = rng_snapshot()
        restore_run()
        self._update += updates
        self._next = next(self._stream, None)
        return seconds

    def difference(self, model: torch.nn.Module) -> str | None:
        """Return where the weights and buffers of a model differ the most; None if they are equal bit by bit."""
        own, gaps = self.model.state_dict(), {}
        for name, tensor in model.state_dict().items():
            if not torch.equal(tensor, own[name]):
                gaps[name] = float((tensor.double() - own[name].double()).abs().max())
        if not gaps:
            return None
        largest = max(gaps, key=gaps.__getitem__)
        return f"{len(gaps)} of {len(own)} tensors differ, most of all {largest}: by up to {gaps[largest]:.2g}"

    # The loop

    def _loop(self, batches: Sequence[Any], settings: Sequence[Settings]) -> None:
        if self._optimizers[0].traits.takes_closure:
            self._with_closure(batches, settings)
        elif self._steps > 1 or self._precision.scaler or len(self._optimizers) > 1 or self._optimizers[0].clips:
            self._in_general(batches, settings)
        else:
            self._plainly(batches, settings)

    def _plainly(self, batches: Sequence[Any], settings: Sequence[Settings]) -> None:
        compute, optimizer = self._loss, self._optimizers[0].torch_optimizer
        for batch, values in zip(batches, settings, strict=True):
            for group, key, value in values:
                group[key] = value
            compute(batch).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            optimizer.zero_grad()

    def _in_general(self, batches: Sequence[Any], settings: Sequence[Settings]) -> None:
        compute, optimizers, scaler, steps = self._loss, self._optimizers, self._precision.scaler, self._steps
        following = iter(batches)
        for values in settings:
            for group, key, value in values:
                group[key] = value
            for _ in range(steps):
                loss = compute(next(following)) if steps == 1 else compute(next(following)) / steps
                (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]  # as above
            for optimizer in optimizers:
                if scaler is not None:
                    scaler.unscale_(optimizer.torch_optimizer)
                optimizer.step(scaler)  # clips
                optimizer.zero_grad()
            if scaler is not None:
                scaler.update()

    def _with_closure(self, batches: Sequence[Any], settings: Sequence[Settings]) -> None:
        optimizer = self._optimizers[0].torch_optimizer
        for batch, values in zip(batches, settings, strict=True):
            for group, key, value in values:
                group[key] = value

            def closure(batch: Any = batch) -> Tensor:
                optimizer.zero_grad()
                loss = self._loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]  # as above
                return loss.detach()

            optimizer.step(closure)  # type: ignore[arg-type]  # torch's type is that of a closure that returns a float
            optimizer.zero_grad()

    # Before the loop

    def _kept(self, batch: Any) -> Any:
        """Return a batch that later ones do not overwrite, page-locked if it has to be copied to a device."""
        if self._device.type == "cpu":
            return batch

        def kept(tensor: Tensor) -> Tensor:
            return tensor.clone() if tensor.device.type != "cpu" else tensor.clone().pin_memory()

        return tree_map_only(Tensor, kept, batch)

    def _settings(self, updates: int) -> list[Settings]:
        """Return what the schedules set before each update, from the next one on."""
        found: list[Settings] = []
        for update in range(self._update, self._update + updates):
            self.model.optimizer_schedule_step(update)
            found.append([value for optimizer in self._optimizers for value in _scheduled_values(optimizer)])
        return found

    def _fit(self, batch: Any) -> None:
        """Let the optimizers choose their kernels by the first gradients, as a run does."""
        with preserved_rng():
            buffers = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self._loss(batch).backward()  # type: ignore[no-untyped-call]  # as above
            for optimizer in self._optimizers:
                optimizer.fit_to_gradients()
            self.model.optimizer_zero_grad()
            self.model.load_state_dict(buffers)
        self._fits = True

    def _chosen(self, batch: Any) -> Loss:
        """Return the shortest way to compute the loss that gives the same number as the trainer's own train step."""
        *shorter, whole = map(self._on_device, _losses(self._trainer, self.model, self._called))

        def first(compute: Loss) -> Tensor:
            with preserved_rng():
                return compute(batch).detach()

        expected = first(whole)
        for compute in shorter:
            try:
                if torch.equal(first(compute), expected):
                    return compute
            except Exception:  # a model, data or a loss of another form: the train step knows it
                continue
        return whole

    def _on_device(self, compute: Loss) -> Loss:
        """Return a loss that moves the batch and casts as the run does, where that is anything to do."""
        precision, to_device = self._precision, self._trainer.to_device
        if precision.dtype is None and self._device.type == "cpu":
            return compute

        def computed(batch: Any) -> Tensor:
            with precision.autocast():
                return compute(to_device(batch))

        return computed


def _scheduled_values(optimizer: ModelOptimizer) -> Iterator[tuple[dict[str, Any], str, float]]:
    for scheduled in optimizer.scheduled:
        for group in optimizer.torch_optimizer.param_groups:
            yield group, scheduled.key, group[scheduled.key]


def _losses(trainer: BaseTrainer, model: Any, called: torch.nn.Module) -> list[Loss]:
    """Return ways to compute the loss, the shortest first; the last one is the train step of the run."""
    if (own := step_of(model)) is not None:
        return [lambda batch: own(batch).total_loss]
    forward, targets = trainer.forward_properties, trainer.target_properties

    def by_train_step(batch: Any) -> Tensor:
        return TrainerResult.of(trainer.train_step(batch, called)).total_loss

    def by_loss_compute(batch: Any) -> Tensor:
        output = called(**{name: batch[name] for name in forward})
        return TrainerResult.of(trainer.loss_compute(output, {name: batch[name] for name in targets})).total_loss

    if not isinstance(trainer, WeightedLossTrainer):
        return [by_loss_compute, by_train_step]
    loss_fn, fields = trainer.loss_fn, [(f, f"{f}{TARGET}", w) for f, w in trainer.loss_items]

    def by_hand(batch: Any) -> Tensor:
        output = called(**{name: batch[name] for name in forward})
        total = None
        for field, target, weight in fields:
            loss = loss_fn(output[field], batch[target])
            loss = loss if weight == 1.0 else loss * weight
            total = loss if total is None else total + loss
        return total  # type: ignore[return-value]  # there is at least one field

    return [by_hand, by_loss_compute, by_train_step]
