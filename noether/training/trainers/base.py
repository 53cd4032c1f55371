"""BaseTrainer: the documented face of a training run; the work is done by `noether.training.loop`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.build import build_callback
from noether.core.callbacks.nested import family
from noether.core.callbacks.participants import participants_of
from noether.core.callbacks.periodic import PeriodicDataIteratorCallback
from noether.core.distributed.ranks import world_size
from noether.core.initializers.base import InitializerBase
from noether.core.models.base import ModelBase
from noether.core.utils.common.stopwatch import Stopwatch
from noether.data.container import DataContainer
from noether.data.dataset import length_of
from noether.data.loader import TrainingLoader
from noether.errors import TrainingError
from noether.kernel.dispatch import Dispatch, compile_dispatch
from noether.kernel.participant import Participant
from noether.metrics.directions import MetricPropertyProvider
from noether.metrics.log import LogWriter
from noether.metrics.metrics_file import MetricsFile
from noether.metrics.tracker import BaseTracker
from noether.training import default_callbacks
from noether.training.loop import session
from noether.training.loop.batching import plan_batches
from noether.training.loop.capture import capture_step
from noether.training.loop.device_guard import finite_guard
from noether.training.loop.finite import FiniteGuard
from noether.training.loop.fitting import require_fitting
from noether.training.loop.interruption import RoundInterrupted, RoundStart
from noether.training.loop.precision import Precision
from noether.training.loop.restore import restore_step
from noether.training.loop.signals import StopSignals
from noether.training.loop.start import give_optimizers, starting_counter
from noether.training.loop.state import files_of, restore, state_of
from noether.training.loop.step import StepOutcome, UpdateStep
from noether.training.loop.wrapping import wrap_compile, wrap_ddp
from noether.training.trainers.config import BaseTrainerConfig
from noether.training.trainers.types import LossResult, TrainerResult

_CHOOSING_CALLBACKS = (
    "get_all_callbacks",
    "get_user_callbacks",
    "get_trainer_callbacks",
    "get_default_callbacks",
    "get_default_callback_intervals",
)


class BaseTrainer(ABC):
    """Base class of trainers; a subclass says what the loss is.

    ```python
    class MyTrainer(BaseTrainer):
        def __init__(self, trainer_config: BaseTrainerConfig, **kwargs):
            super().__init__(trainer_config, **kwargs)

        def loss_compute(self, forward_output, targets):
            return torch.nn.functional.mse_loss(forward_output["field"], targets["field_target"])
    ```

    A subclass may override `train_step` as well, for another forward pass than `model(**forward_properties)`.

    Args:
        config: Limits, batch size, precision, callbacks.
        data_container: The data sets of the run.
        device: Where to train.
        tracker: The experiment tracker; callbacks may use it directly.
        path_provider: Where the run keeps its files.
        main_sampler_kwargs: Further arguments of `DataContainer.build_loader`.
        metric_property_provider: Says which way a metric improves; unset, by the usual names.

    Attributes:
        update_counter: Where the run stands.
        callbacks: All callbacks, once `train` or `eval` has built them.
        plugins: Run plugins that follow this run beside its callbacks.
        dispatch: The compiled hooks, once training or evaluation has begun.
        run: What run hooks are given; None for a trainer that is built by hand.
        last_loss: Total loss of the last accumulation step, detached.
        applied: Whether the last update was applied, as 1.0 or 0.0 on the device; None where the host has looked, which
            then calls tracking hooks for applied updates only.
        seconds: Seconds that the parts of all updates have taken so far, by part.
        is_resumed: Whether it goes on with a state of its own run.
        has_ended: Whether training has come to its end, by its limit or by an early stop.
        stop_reason: Why training ends before its limit; None while it goes on.
        stopped_by: The signal that ended training before its end; None where none did.
        pending_round: What the round began with that a stop has interrupted, and that a resumed run has to repeat.
        round_to_repeat: The same as a checkpoint has it, until the round is repeated.
        round_start: What the round under way began with, where a stop may interrupt it.
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
        self.logger = logging.getLogger(f"noether.trainers.{type(self).__name__}")
        self.config = config
        self.data_container = data_container
        if config.dataloader_prefetch_factor is not None:
            data_container.prefetch_factor = config.dataloader_prefetch_factor
        self.device = torch.device(device)
        self.tracker = tracker
        self.path_provider = path_provider
        self.main_sampler_kwargs = main_sampler_kwargs
        self.metric_property_provider = metric_property_provider or MetricPropertyProvider()
        self.forward_properties = list(config.forward_properties or [])
        self.target_properties = list(config.target_properties or [])
        self.batch_keys = [*self.forward_properties, *self.target_properties]
        self.initializer: InitializerBase | None = (
            component_of(config.initializer).target(config.initializer) if config.initializer else None
        )
        self.callbacks: list[CallbackBase] = []
        self.plugins: Sequence[Participant] = ()
        self.dispatch: Dispatch | None = None
        self.run: Any = None
        self.last_loss: Tensor | None = None
        self.applied: Tensor | None = None
        self.seconds: dict[str, float] = {}
        self.stop_reason: str | None = None
        self.stopped_by: int | None = None
        self.pending_round: RoundStart | None = None
        self.round_to_repeat: Mapping[str, Any] | None = None
        self.round_start: RoundStart | None = None
        self.is_resumed = False
        self.has_ended = False
        self._prepared: ModelBase | None = None
        self._set_up_progress(config)
        self._set_up_step(config)
        self.log_writer = LogWriter(MetricsFile(path_provider.metrics_path), self.metric_property_provider)
        self.checkpoint_writer = CheckpointWriter(path_provider)

    def _set_up_progress(self, config: BaseTrainerConfig[Any]) -> None:
        batching = plan_batches(
            config.effective_batch_size,
            max_batch_size=config.max_batch_size,
            world_size=world_size(),
            accumulate=not config.disable_gradient_accumulation,
        )
        self.batch_size = batching.batch_size
        self.accumulation_steps = batching.accumulation_steps
        self.end_checkpoint = config.end_iteration
        trains = 0 not in (config.max_epochs, config.max_updates, config.max_samples)
        samples = length_of(self.data_container.train) if trains else config.effective_batch_size
        self.update_counter = starting_counter(config, samples)
        self.updates_per_epoch = self.update_counter.updates_per_epoch

    def _set_up_step(self, config: BaseTrainerConfig[Any]) -> None:
        self.precision = Precision(config.precision, self.device)
        guard = finite_guard(self.device, skip=config.skip_nan_loss, max_in_a_row=config.skip_nan_loss_max_count)
        self.signals = StopSignals(save_on_sigint=config.save_on_sigint, names=config.stop_signals)
        self.step = UpdateStep(self.train_step, self.precision, guard, self.update_counter)

    @property
    def finite_guard(self) -> FiniteGuard:
        """What keeps updates that are not finite from being applied."""
        return self.step.guard

    @property
    def skip_nan_loss_counter(self) -> int:
        """Updates in a row that were not applied because something in them was not finite; waits for the device."""
        self.finite_guard.read()
        return self.finite_guard.in_a_row

    @property
    def total_training_updates(self) -> int:
        """Updates of the whole run."""
        return self.update_counter.end_update

    # What can be said before anything is built

    @classmethod
    def loss_names(cls, config: Any) -> tuple[str, ...] | None:
        """Return the names of the losses that its step returns, beside `total`; None where they are not known.

        It counts for the class that defines it only: a subclass may have another step.
        """
        return None

    @classmethod
    def default_callback_configs(
        cls, config: BaseTrainerConfig[Any], end_update: int | None
    ) -> tuple[list[CallBackBaseConfig], list[CallBackBaseConfig]] | None:
        """Return the configs of the callbacks before and after the user's; None where a subclass chooses others.

        Args:
            config: The trainer's config.
            end_update: Updates of the run; None where they depend on the data, and so do default intervals.
        """
        if any(getattr(cls, name) is not getattr(BaseTrainer, name) for name in _CHOOSING_CALLBACKS):
            return None
        if config.add_default_callbacks is False:
            return [], []
        intervals = default_callbacks.default_intervals(config, end_update)
        configs = default_callbacks.default_configs(config, intervals)
        first = len(default_callbacks.PRODUCERS)
        return configs[:first], configs[first:]

    # What the run consists of

    def get_user_callbacks(self, model: ModelBase, evaluation: bool = False) -> list[CallbackBase]:
        """Build the callbacks of the config, in its order.

        Args:
            model: The model that they follow.
            evaluation: Leave out those that have nothing to do where nothing is trained.
        """
        default_kwargs = self.callback_default_kwargs(model)
        callbacks = [build_callback(config, default_kwargs) for config in self.config.callbacks or []]
        return [callback for callback in callbacks if not evaluation or hasattr(callback, "at_eval")]

    def get_all_callbacks(self, model: ModelBase) -> list[CallbackBase]:
        """Build all callbacks: default producers, the user's, the trainer's own, default reporters."""
        default_kwargs = self.callback_default_kwargs(model)
        defaults = self.get_default_callbacks(default_kwargs) if self.config.add_default_callbacks is not False else []
        own = self.get_trainer_callbacks(default_kwargs) if self.config.add_trainer_callbacks is not False else []
        producers = [callback for callback in defaults if default_callbacks.is_producer(callback)]
        reporters = [callback for callback in defaults if not default_callbacks.is_producer(callback)]
        return [*producers, *self.get_user_callbacks(model), *own, *reporters]

    def callback_default_kwargs(self, model: ModelBase) -> dict[str, Any]:
        """Return what every callback's constructor takes beside its config."""
        return {
            "trainer": self,
            "model": model,
            "data_container": self.data_container,
            "tracker": self.tracker,
            "log_writer": self.log_writer,
            "checkpoint_writer": self.checkpoint_writer,
            "metric_property_provider": self.metric_property_provider,
        }

    def get_trainer_callbacks(self, callback_default_args: dict[str, Any]) -> list[CallbackBase]:
        """Return the callbacks that this kind of trainer brings; a subclass may override it."""
        return []

    def get_default_callback_intervals(self) -> dict[str, Any]:
        """Return the intervals of the default callbacks, `log` and `track`."""
        return default_callbacks.default_intervals(self.config, self.total_training_updates)

    def get_default_callbacks(self, default_kwargs: dict[str, Any]) -> list[CallbackBase]:
        """Build the default callbacks, producers of metrics first."""
        configs = default_callbacks.default_configs(self.config, self.get_default_callback_intervals())
        return [build_callback(config, default_kwargs) for config in configs]

    def get_data_loader(
        self,
        iterator_callbacks: Sequence[PeriodicDataIteratorCallback],
        batch_size: int,
        evaluation: bool = False,
    ) -> TrainingLoader:
        """Return the one stream of training and evaluation batches, from where the run stands.

        Args:
            iterator_callbacks: The callbacks that go through data sets.
            batch_size: Samples of one forward pass.
            evaluation: No training batches: each callback's pass once.
        """
        arguments: dict[str, Any] = {
            "batch_size": batch_size,
            "effective_batch_size": self.config.effective_batch_size,
            "start_update": self.update_counter.update,
            "end_update": self.total_training_updates,
            "repeat_round": self.round_to_repeat is not None,
            "evaluation": evaluation,
            "device": self.device,
            **(self.main_sampler_kwargs or {}),
        }
        consumers = [callback.sampler_config for callback in iterator_callbacks]
        return self.data_container.build_loader(consumers, **arguments)

    # The step

    @abstractmethod
    def loss_compute(
        self, forward_output: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> LossResult | tuple[LossResult, dict[str, Tensor]]:
        """Return the loss of one batch: a tensor, a list, a dict by name, or a tuple of that and further outputs.

        Args:
            forward_output: What the model returned.
            targets: The target properties of the batch.
        """

    def train_step(self, batch: dict[str, Tensor], model: nn.Module) -> TrainerResult:
        """Call the model with the forward properties and compute the loss on the target properties.

        Args:
            batch: Properties by name, on the device.
            model: The model as it is called, wrapped and compiled.

        Raises:
            TrainingError: The batch lacks a property.
        """
        try:
            forward, targets = {}, {}
            for name in self.forward_properties:
                forward[name] = batch[name]
            for name in self.target_properties:
                targets[name] = batch[name]
        except KeyError as error:
            raise TrainingError(
                f"a batch has no property {error}, it has {', '.join(map(repr, batch))}",
                hint="forward_properties and target_properties name properties of the data set",
            ) from error
        return TrainerResult.of(self.loss_compute(model(**forward), targets))

    def forward(self, batch: dict[str, Tensor], model: nn.Module) -> Any:
        """Return what the model makes of a batch, without a loss: for evaluation.

        Args:
            batch: Properties by name, on the device.
            model: The model as it is called.

        Raises:
            TrainingError: The batch lacks a forward property.
        """
        missing = [name for name in self.forward_properties if name not in batch]
        if missing:
            raise TrainingError(f"a batch has no {missing}, which forward_properties names; it has {sorted(batch)}")
        return model(**{name: batch[name] for name in self.forward_properties})

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
            accumulation_step: Which of them this is, from 0.
            retain_graph: Keep the graph after the backward pass.

        Returns:
            The losses by name with their `total`, the additional outputs, and how long each part took.
        """
        return self.step(batch, dist_model, model, accumulation_steps_total, accumulation_step, retain_graph)

    @property
    def step_function(self) -> Callable[..., StepOutcome]:
        """What the loop calls for each accumulation step: `update`, or where nobody overrides it, what it calls."""
        return self.step if type(self).update is BaseTrainer.update else self.update

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context with the precision of training."""
        return self.precision.autocast()

    def to_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Move the tensors of a batch to the device of the run."""
        return {
            name: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    @staticmethod
    def drop_metadata(data: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of a batch, without what a data set adds to identify its samples."""
        return {name: value for name, value in data.items() if isinstance(value, Tensor)}

    # Wrapping

    def wrap_model(self, model: ModelBase) -> nn.Module:
        """Return the model as training calls it: in data parallelism, then compiled, where asked for."""
        return self.wrap_compile(self.wrap_ddp(model))

    def wrap_ddp(self, model: ModelBase) -> nn.Module:
        """Wrap the model in `DistributedDataParallel` where there are several ranks."""
        config = self.config
        return wrap_ddp(model, find_unused_params=config.find_unused_params, static_graph=config.static_graph)

    def wrap_compile(self, ddp_model: nn.Module) -> nn.Module:
        """Compile the model where `use_torch_compile` says so."""
        return wrap_compile(ddp_model) if self.config.use_torch_compile else ddp_model

    # The life of a run

    def prepare(self, model: ModelBase) -> None:
        """Build optimizer, callbacks and hooks, so that what cannot work is known before the run has left a trace.

        `train` does this itself where nobody has done it before.

        Raises:
            UsageError: An optimizer, a schedule, a callback or a hook does not fit.
            CheckpointError: The initializer cannot take its state from where it is told to.
        """
        model = model.to(self.device)
        if self.initializer is not None:
            self.initializer.check(self)
            if not self.initializer.continues_a_run:
                self.initializer.initialize(self, model)  # first of all: callbacks may copy the weights
        give_optimizers(model, self.update_counter)
        self.callbacks = session.build_callbacks(self, model)
        session.compile_hooks(self, model)
        self._prepared = model

    def train(self, model: ModelBase) -> None:
        """Train the model until the limit, or a stop; a limit of zero evaluates once.

        Raises:
            NonFiniteError: Losses or gradients stopped being finite.
            NoetherError: A callback, the data or the disk failed; the note says which.
        """
        if self._prepared is not model:
            self.prepare(model)
        self._prepared = None  # what follows happens once
        self.stop_reason = self.stopped_by = self.pending_round = None
        with session.closing(self.callbacks):
            self.apply_resume_initializer(model)
            if self.total_training_updates:
                session.train(self, model)
            else:
                session.evaluate(self, model)

    def eval(self, model: ModelBase) -> None:
        """Call every callback's `at_eval` once, without training."""
        self.callbacks = session.build_callbacks(self, model.to(self.device))
        session.compile_hooks(self, model)
        with session.closing(self.callbacks):
            self.apply_resume_initializer(model)
            session.evaluate(self, model)

    def apply_resume_initializer(self, model: ModelBase) -> None:
        """Let an initializer that continues a run restore its state; one of weights alone was called before."""
        if self.initializer is not None and self.initializer.continues_a_run:
            self.initializer.initialize(self, model)

    def call_before_training(self, callbacks: list[CallbackBase]) -> None:
        """Call `before_training` of these callbacks; of all that takes part, where they are the run's."""
        if (call := self._hooks_of(callbacks).before_training) is not None:
            call(self.update_counter)

    def call_after_training(self, callbacks: list[CallbackBase]) -> None:
        """Call `after_training` of these callbacks; of all that takes part, where they are the run's."""
        if (call := self._hooks_of(callbacks).after_training) is not None:
            call(self.update_counter)

    def _hooks_of(self, callbacks: list[CallbackBase]) -> Dispatch:
        if callbacks is self.callbacks and self.dispatch is not None:
            return self.dispatch
        return compile_dispatch(participants_of(callbacks), on_stop=self.request_stop)

    def request_stop(self, reason: str) -> None:
        """End training at the next boundary, with a checkpoint."""
        self.stop_reason = self.stop_reason or reason

    def stop_for_signal(self) -> None:
        """End training because a signal has arrived, unless it has come to its end anyway."""
        is_over = self.stop_reason is not None or self.update_counter.is_finished
        if self.pending_round is not None or not is_over:
            self.stopped_by, self.stop_reason = self.signals.received, self.signals.name

    def raise_if_stopped(self) -> None:
        """Interrupt the round under way where a signal has arrived; called between two batches of an evaluation pass.

        Raises:
            RoundInterrupted: It is interrupted, and will be repeated.
        """
        if self.round_start is not None and self.signals.received is not None:
            raise RoundInterrupted(self.signals.name)

    def give_up_if_not_finite(self) -> None:
        """End the run where an update that was not applied is one too many.

        Raises:
            NonFiniteError: It was.
        """
        last = self.checkpoint_writer.last_committed
        self.finite_guard.raise_if_given_up(self.update_counter.update, str(last) if last else None)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Return progress, scaler, position in the metrics, and the callbacks' states by id."""
        return state_of(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; the callbacks must have been built."""
        restore(self, state_dict)

    def capture_state(self, model: ModelBase) -> CheckpointState:
        """Return everything that a checkpoint holds, as it is now."""
        data_state = self.data_container.state_dict()
        files = files_of(family(self.callbacks))
        if self.pending_round is not None:
            files |= self.pending_round.files
        return capture_step(model, self.update_counter, self.state_dict(), data_state, files)

    def check_state(self, step: SavedCheckpoint, state: CheckpointState) -> None:
        """Check that this run can go on from a saved step, as far as it is known before anything is restored.

        Args:
            step: Where the state comes from.
            state: What `step.state()` returned.

        Raises:
            CheckpointError: An update or an epoch has another size here, or the run's limit lies before the step.
        """
        require_fitting(self, step, state)

    def restore_state(self, model: ModelBase, step: SavedCheckpoint, state: CheckpointState) -> None:
        """Go on from a saved step; the counterpart of `capture_state`. Optimizers and callbacks must have been built.

        Args:
            model: The unwrapped model, with its optimizers.
            step: Where the state comes from, for what callbacks keep in files of their own.
            state: What `step.state()` returned.

        Raises:
            CheckpointError: The state is for another model.
        """
        restore_step(self, model, step, state)
