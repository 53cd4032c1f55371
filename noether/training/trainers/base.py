"""BaseTrainer: the documented face of a training run; `noether.training.loop` and its neighbours do the work."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.config.base import construct
from noether.config.metric_facts import MetricPropertyProvider
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.callbacks.tree import participants_of
from noether.core.initializers.weights import CalledOnce, InitializerBase
from noether.core.models.agreement import require_agreement, require_sizes
from noether.core.models.base import ModelBase
from noether.data.collators import MASK, by_field, moved, properties_of, selected
from noether.data.container import DataContainer
from noether.data.loader import TrainingLoader
from noether.data.randomness import preserved_rng
from noether.data.samplers import order_options
from noether.kernel.dispatch import Dispatch
from noether.kernel.participant import Participant
from noether.kernel.progress import Stopwatch
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile
from noether.metrics.tracker import BaseTracker
from noether.training import loop, resume, stop
from noether.training.capture import ModelState, capture_trainer, trainer_state
from noether.training.default_callbacks import ChoosesCallbacks
from noether.training.forms import Choice, choose, report_fallback
from noether.training.nonfinite import finite_guard
from noether.training.optimizers import TrainsParameters
from noether.training.parallel import Parallel, parallel_of
from noether.training.parallel.gradients import update_of
from noether.training.precision import Precision
from noether.training.rounds import compile_run_hooks
from noether.training.signals import StopSignals
from noether.training.state import ReadsState, RunParts, RunState, starting_counter
from noether.training.trainers.config import BaseTrainerConfig, cut_update
from noether.training.trainers.types import LossFacts, LossResult, NoBroadcasting, TrainerResult
from noether.training.update import step_of


class BaseTrainer(ReadsState, resume.TakesState, ChoosesCallbacks, TrainsParameters, LossFacts, ABC):
    """Base class of trainers; a subclass defines the loss.

    ```python
    class MyTrainer(BaseTrainer):
        def __init__(self, trainer_config: BaseTrainerConfig, **kwargs):
            super().__init__(trainer_config, **kwargs)

        def loss_compute(self, forward_output, targets):
            return torch.nn.functional.mse_loss(forward_output["field"], targets["field_target"])
    ```

    A subclass may override `train_step` as well, for another forward pass than `model(**forward_properties)`, or
    instead: one that does not call `loss_compute` needs none.

    Args:
        config: Limits, batch size, precision, callbacks.
        data_container: The data sets of the run.
        device: Device to train on.
        tracker: The experiment tracker; callbacks may use it directly.
        path_provider: Paths of the run's files.
        main_sampler_kwargs: Options of the order of training: `shuffle`, `drop_last`, `seed`; see `TrainingOrder`.
        metric_property_provider: Direction in which each metric improves; unset, by the usual names.

    Attributes:
        state: Progress of the run; read it through the attributes of the trainer.
        one_update: The update that the loop repeats.
        update_form: The form of that update, and the reasons against faster ones; None before `prepare` or `train`.
        parallel: The ranks of the run.
        callbacks: All callbacks, once `prepare`, `train` or `eval` has built them.
        participants: Callbacks and run plugins, once hooks are compiled.
        dispatch: The compiled hooks, once `prepare`, `train` or `eval` has compiled them.
        run: The argument `run` of run hooks; None for a trainer that is built by hand.
    """

    def __init__(
        self,
        config: BaseTrainerConfig[Any],
        data_container: DataContainer,
        device: str | torch.device,
        tracker: BaseTracker,
        path_provider: PathProvider,
        main_sampler_kwargs: dict[str, Any] | None = None,
        metric_property_provider: MetricPropertyProvider | None = None,
    ) -> None:
        self._require_own_names(BaseTrainer)
        self.logger = logging.getLogger(f"noether.trainers.{type(self).__name__}")
        self.config, self.data_container = config, data_container
        if config.dataloader_prefetch_factor is not None:
            data_container.prefetch_factor = config.dataloader_prefetch_factor
        self.device, self.outputs = torch.device(device), config.outputs
        self.tracker, self.path_provider = tracker, path_provider
        self.main_sampler_kwargs = None if main_sampler_kwargs is None else order_options(main_sampler_kwargs)
        self.metric_property_provider = metric_property_provider or MetricPropertyProvider()
        self.forward_properties = list(config.forward_properties or [])
        self.target_properties = list(config.target_properties or [])
        self.batch_keys = [*self.forward_properties, *self.target_properties]
        self.has_masks = bool(data_container.collators) or MASK in self.target_properties
        self.initializer: InitializerBase | None = construct(config.initializer) if config.initializer else None
        self.callbacks: list[CallbackBase] = []
        self.participants: Sequence[Participant] = ()
        self.dispatch: Dispatch | None = None
        self.update_form: Choice | None = None
        self.run: Any = None
        self.parallel: Parallel = parallel_of()
        self._plugins: Sequence[Participant] = ()
        self._prepared: tuple[ModelBase, nn.Module] | None = None
        self._own_step: Callable[[Any], TrainerResult] | None = None
        self._has_compared = self.different_shapes
        self._initializers, self._model_state = CalledOnce(), ModelState()
        self._set_up_progress(config)
        self._set_up_update(config)
        metrics_file = MetricsFile(path_provider.metrics_path, path_provider.run_path)
        self.log_writer = LogWriter(metrics_file, self.metric_property_provider, config.result_limits)
        self.checkpoint_writer = CheckpointWriter(path_provider, ranks=self.parallel)

    def _set_up_progress(self, config: BaseTrainerConfig[Any]) -> None:
        self.batch_size, self.accumulation_steps = cut_update(
            config.effective_batch_size,
            max_batch_size=config.max_batch_size,
            world_size=self.parallel.world,
            accumulate=not config.disable_gradient_accumulation,
        )
        self.end_checkpoint = config.end_iteration
        trains = 0 not in (config.max_epochs, config.max_updates, config.max_samples)
        samples = self.data_container.samples_per_epoch if trains else config.effective_batch_size
        drop_last = (self.main_sampler_kwargs or {}).get("drop_last", True)
        counter = starting_counter(config, samples, drop_last=drop_last, limit=self.data_container.epoch_limit)
        self.state = RunState(counter)
        self.updates_per_epoch = self.state.counter.updates_per_epoch

    def _set_up_update(self, config: BaseTrainerConfig[Any]) -> None:
        self.precision = Precision(config.precision, self.device)
        guard = finite_guard(self.device, skip=config.skip_nan_loss, max_in_a_row=config.skip_nan_loss_max_count)
        self.signals = StopSignals(
            save_on_sigint=config.save_on_sigint, names=config.stop_signals, is_shared=self.parallel.world > 1
        )
        self.one_update = update_of(self, guard)

    def get_data_loader(
        self, iterator_callbacks: Sequence[PeriodicDataIteratorCallback], batch_size: int, evaluation: bool = False
    ) -> TrainingLoader:
        """Return the one stream of training batches and of the batches of these callbacks, from the current update on.

        With `evaluation`, it has one pass of each callback and no training batches.
        """
        arguments: dict[str, Any] = {
            "batch_size": batch_size,
            "effective_batch_size": self.config.effective_batch_size,
            "start_update": self.state.counter.update,
            "end_update": self.total_training_updates,
            "repeat_round": self.state.round_to_repeat is not None,
            "evaluation": evaluation,
            "device": self.device,
            "rank": self.parallel.rank,
            "world_size": self.parallel.world,
            "sampling": self.config.sampling,
            **(self.main_sampler_kwargs or {}),  # which may replace others
        }
        return self.data_container.build_loader([one.sampler_config for one in iterator_callbacks], **arguments)

    # The update

    @abstractmethod
    def loss_compute(
        self, forward_output: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> LossResult | tuple[LossResult, dict[str, Tensor]]:
        """Return the loss of one batch, a list or a dict of them, or a tuple of these and a dict of outputs.

        Each is a mean over the samples of the batch, or `Counted(loss, n)`, a mean over n other values.

        Args:
            forward_output: The output of the model.
            targets: The target properties of the batch, and the `mask` of a padded one.
        """

    def train_step(self, batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
        """Call the (wrapped) model with the forward properties and compute the loss on the target properties.

        A model with a method `train_step(batch)` of its own is asked for the result instead.

        Raises:
            TrainingError: if the batch lacks a property.
        """
        if self._prepared is None:  # called by hand
            self._own_step = step_of(model)
        if self._own_step is not None:
            if self._has_compared:
                return self._own_step(batch)
            named = properties_of(batch)
            targets = {name: named[name] for name in self.target_properties if name in named}
            return TrainerResult.of(self._first(partial(self._own_step, batch), None, targets))
        found = batch if type(batch) is dict else properties_of(batch)
        forward, targets = {}, {}
        try:
            for name in self.forward_properties:
                forward[name] = found[name]
            for name in self.target_properties:
                targets[name] = found[name]
        except KeyError:
            selected(batch, self.batch_keys)  # names all that it lacks
            raise
        if self.has_masks and MASK in found:
            targets[MASK] = found[MASK]
        output = model(**forward)
        if self.outputs:
            output = by_field(output, self.outputs)
        if self._has_compared:
            return TrainerResult.of(self.loss_compute(output, targets))
        return TrainerResult.of(self._first(partial(self.loss_compute, output, targets), output, targets))

    def _first(self, compute: Callable[[], Any], *compared: Any) -> Any:
        """Compute the first loss with a look at the shapes that it compares, which later ones have as well."""
        with NoBroadcasting(*compared):
            result = compute()
        self._has_compared = torch.is_grad_enabled()  # an evaluation cannot tell what depends on parameters
        return result

    def forward(self, batch: dict[str, Tensor], model: nn.Module) -> Any:
        """Return the output of the model, by field if its parts have names, for a batch on the device: for evaluation.

        Raises:
            TrainingError: if the batch lacks a forward property.
        """
        output = model(**selected(batch, self.forward_properties))
        return output if type(output) is dict and not self.outputs else by_field(output, self.outputs)

    def update(
        self,
        batch: dict[str, Tensor],
        dist_model: nn.Module,
        model: ModelBase,
        accumulation_steps_total: int,
        accumulation_step: int,
        retain_graph: bool = False,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Stopwatch]]:
        """Run forward and backward pass of one accumulation step, and the optimizer after the last one.

        Args:
            batch: Properties by name, on the device.
            dist_model: The model as it is called.
            model: The model that owns the optimizer.
            accumulation_steps_total: Accumulation steps of this update.
            accumulation_step: Number of this one, from 0.
            retain_graph: Keep the graph after the backward pass.

        Returns:
            The losses by name with their `total`, the additional outputs, and a stopwatch of each part.
        """
        update = self.one_update
        update.train_step = self.train_step  # an instance may have been given one of its own
        return update.accumulate(batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph)

    @property
    def has_own_update(self) -> bool:
        """True if the class, or this instance, has an `update` of its own."""
        return type(self).update is not BaseTrainer.update or "update" in vars(self)

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context with the precision of training."""
        return self.precision.autocast()

    def to_device(self, batch: Any) -> Any:
        """Return a batch with its tensors on the device of the run; a batch may be an object with a method `to`."""
        return moved(batch, self.device)

    @staticmethod
    def drop_metadata(data: Any) -> dict[str, Tensor]:
        """Return the tensors of a batch, without the values that identify its samples."""
        return {name: value for name, value in properties_of(data).items() if isinstance(value, Tensor)}

    # The life of a run

    def wrap_model(self, model: ModelBase) -> nn.Module:
        """Return the model as training calls it: prepared for ranks, then compiled if `use_torch_compile` is set."""
        return self.wrap_compile(self.wrap_ddp(model))

    def wrap_ddp(self, model: ModelBase) -> nn.Module:
        """Return the model prepared for the ranks of the run; with one rank, the model itself."""
        return self.parallel.prepare(model, self.config, self.device)

    def wrap_compile(self, ddp_model: nn.Module) -> nn.Module:
        """Compile the model if `use_torch_compile` is set; its parameters stay those of the model."""
        return cast("nn.Module", torch.compile(ddp_model)) if self.config.use_torch_compile else ddp_model

    def prepare(self, model: ModelBase, parts: RunParts | None = None) -> None:
        """Build optimizer, callbacks and hooks, so that mistakes in them are found before the run leaves a trace.

        `train` does this itself if nothing is prepared. `parts` are those that a run adds.

        Raises:
            UsageError: if an optimizer, a schedule, a callback or a hook does not fit.
            CheckpointError: if the initializer cannot take its state from its source.
        """
        self._build(model, parts, give_optimizer=True)

    def _build(self, model: ModelBase, parts: RunParts | None, *, give_optimizer: bool) -> None:
        """Build everything of a run in order: ranks, weights, optimizer, callbacks, hooks."""
        parts = parts or RunParts(self.run, self._plugins)
        vars(self)["run"], self._plugins = parts.run, parts.plugins
        if parts.initializer is not None and parts.initializer.continues_a_run:
            self.initializer = parts.initializer
        require_sizes(model)
        is_divided = self.config.parallel == "fsdp2" and self.parallel.world > 1  # then no device holds all of it
        dist_model = self.wrap_model(model if is_divided else model.to(self.device))
        self._own_step = step_of(model)
        self._initializers.check_and_load(self, model, parts.initializer, self.initializer)  # callbacks may copy it
        if give_optimizer:
            self.give_optimizers(model)
        with preserved_rng():
            self.callbacks = self.get_all_callbacks(model)
        vars(self)["participants"] = [*participants_of(self.callbacks), *self._plugins]
        vars(self)["dispatch"] = compile_run_hooks(self.callbacks, self._plugins, self.request_stop)
        if self._callback_states is not None:
            self._restore_callbacks()
        require_agreement(model)
        self.parallel.check(self, model)
        if give_optimizer and model.optimizers():
            choice = vars(self)["update_form"] = choose(self.config.update, self, model)
            vars(self)["one_update"] = choice.form.build(self, self.one_update, model)
        self._prepared = model, dist_model

    def train(self, model: ModelBase) -> None:
        """Train the model until the limit or a stop; with a limit of zero, call every callback once.

        Raises:
            NonFiniteError: if losses or gradients stop being finite.
            NoetherError: if a callback, the data or the disk fails; a note names the callback.
        """
        if self._prepared is None or self._prepared[0] is not model:
            self.prepare(model)
        if self.update_form is not None:
            report_fallback(self.update_form)
        self._go(loop.train if self.total_training_updates else loop.train_nothing)

    def eval(self, model: ModelBase, parts: RunParts | None = None) -> None:
        """Call every callback's `at_eval` once, without training; `parts` are those that a run adds."""
        self._build(model, parts, give_optimizer=False)
        self._go(loop.evaluate)

    def _go(self, work: Callable[[BaseTrainer, ModelBase, nn.Module], None]) -> None:
        """Train or evaluate what is prepared, once, and close the callbacks."""
        assert self._prepared is not None, "prepared before"
        model, dist_model = self._prepared
        stop.begin_anew(self.state)
        self.one_update.follow(self.train_step, self.update if self.has_own_update else None)
        try:
            with self.parallel.together(), loop.closing(self.callbacks):
                self.parallel.begin(model, self.data_container.seed)
                self.apply_resume_initializer(model)
                work(self, model, dist_model)
        finally:
            self._prepared = None

    def apply_resume_initializer(self, model: ModelBase) -> None:
        """Let an initializer that continues a run restore its state; one of weights alone was called before."""
        if self.initializer is not None and self.initializer.continues_a_run:
            self._initializers.call(self, model, self.initializer)

    def request_stop(self, reason: str) -> None:
        """End training at the next boundary, with a checkpoint."""
        stop.request_stop(self.state, reason)

    def raise_if_stopped(self) -> None:
        """Interrupt the round under way if a signal has arrived; called between two batches of an evaluation pass.

        Raises:
            RoundInterrupted: if a signal has arrived; the round will be repeated.
        """
        stop.raise_if_stopped(self.state, self.signals)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Return progress, scaler, position in the metrics, and the callbacks' states by id."""
        return trainer_state(self)

    def capture_state(self, model: ModelBase) -> CheckpointState:
        """Return everything that a checkpoint holds, as it is now."""
        return capture_trainer(self, model, self.state_dict(), self._model_state)
