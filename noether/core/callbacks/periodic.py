"""Base classes of callbacks on an interval, and of those that iterate over a data set on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from noether.checkpoint.writer import CheckpointWriter
from noether.config.components import PeriodicDataIteratorCallbackConfig
from noether.config.metric_facts import MetricPropertyProvider
from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig, explaining_gradients, without_gradients
from noether.core.callbacks.evaluation import DatasetPass, put_together
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.data.collators import properties_of
from noether.data.container import DataContainer
from noether.data.dataset import length_of
from noether.data.samplers import SamplerIntervalConfig
from noether.errors import DataError
from noether.kernel.compile import active_watch, measured
from noether.kernel.hookspecs import HOOKS, inherited_no_op, unguarded, when_due
from noether.kernel.participant import Binding, bind
from noether.kernel.progress import Intervals, UpdateCounter, fires
from noether.metrics.log import LogWriter
from noether.metrics.tracker import BaseTracker

IntervalType = Literal["epoch", "update", "sample", "eval"]
"""The interval that fired; `eval` if a checkpoint is evaluated outside of training."""


class _Every:
    """Interval of a `PeriodicCallback` in one unit, kept in its `intervals`, which every round reads."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, callback: PeriodicCallback | None, owner: type) -> Any:
        return self if callback is None else getattr(callback.intervals, self._name)

    def __set__(self, callback: PeriodicCallback, every: int | None) -> None:
        callback.intervals = replace(callback.intervals, **{self._name: every})


class PeriodicCallback(CallbackBase):
    """Base class of callbacks that act every n epochs, updates or samples.

    Subclasses override `periodic_callback`, and the `track_…` hooks if they follow every update. A hook that is not
    overridden is never called.

    Args:
        callback_config: The interval (`every_n_*`) and the fields of the subclass.
        trainer: See `CallbackBase`, as for all arguments below.
        model: See `CallbackBase`.
        data_container: See `CallbackBase`.
        tracker: See `CallbackBase`.
        log_writer: See `CallbackBase`.
        checkpoint_writer: See `CallbackBase`.
        metric_property_provider: See `CallbackBase`.
        name: See `CallbackBase`.

    Attributes:
        intervals: The interval as one value.
        every_n_epochs: The interval in epochs; a subclass may set it, as the two below.
        every_n_updates: The interval in updates.
        every_n_samples: The interval in samples.
    """

    intervals = Intervals()
    every_n_epochs = _Every()
    every_n_updates = _Every()
    every_n_samples = _Every()

    def __init__(
        self,
        callback_config: CallBackBaseConfig,
        trainer: RunningTrainer,
        model: ModelBase,
        data_container: DataContainer,
        tracker: BaseTracker,
        log_writer: LogWriter,
        checkpoint_writer: CheckpointWriter,
        metric_property_provider: MetricPropertyProvider,
        name: str | None = None,
    ) -> None:
        super().__init__(
            trainer,
            model,
            data_container,
            tracker,
            log_writer,
            checkpoint_writer,
            metric_property_provider,
            name,
        )
        self.callback_config = callback_config
        self.id = callback_config.id or self.id
        self.component = callback_config._component
        config = callback_config
        self.intervals = Intervals(config.every_n_epochs, config.every_n_updates, config.every_n_samples)
        self._own_batch_size = config.batch_size

    @property
    def batch_size(self) -> int:
        """Samples in a batch of its own passes over data; if none is set, those of a batch of training."""
        return self._own_batch_size or self.trainer.batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int | None) -> None:
        self._own_batch_size = batch_size

    @inherited_no_op
    def periodic_callback(self, *, interval_type: IntervalType, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Act: the interval named by `interval_type` fired ("eval": an evaluation outside of training)."""

    @inherited_no_op
    def track_after_accumulation_step(
        self,
        *,
        update_counter: UpdateCounter,
        batch: Any,
        losses: dict[str, Tensor],
        update_outputs: dict[str, Tensor] | None,
        accumulation_steps: int,
        accumulation_step: int,
    ) -> None:
        """Follow each accumulation step."""

    @inherited_no_op
    def track_after_update_step(self, *, update_counter: UpdateCounter, times: dict[str, float]) -> None:
        """Follow each update."""

    @when_due
    def after_epoch(self, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Act if the epoch interval fires."""
        if interval := fires(self.intervals, update_counter, "epoch"):
            self._act(interval_type=interval, update_counter=update_counter, **kwargs)

    @when_due
    def after_update(self, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Act if the update or the sample interval fires."""
        interval = self.intervals.fires_after_update(update_counter.update, update_counter.effective_batch_size)
        if interval is not None:
            self._act(interval_type=interval, update_counter=update_counter, **kwargs)

    def at_eval(self, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Act on a model that is evaluated outside of training."""
        self._act(interval_type="eval", update_counter=update_counter, **kwargs)

    @cached_property
    def _periodic(self) -> tuple[Callable[..., None], Binding]:
        function = unguarded(self.periodic_callback)  # what calls it is guarded itself
        return function, bind(function, HOOKS["periodic_callback"])

    def _act(self, **arguments: Any) -> None:
        """Call `periodic_callback` with the arguments that it names, or with all of them if it takes `**kwargs`."""
        (call, binding), positional, named = self._periodic, [], arguments
        if binding.positional or not binding.takes_all:
            positional = [arguments[name] for name in binding.positional]
            takes = arguments if binding.takes_all else binding.keywords
            named = {name: arguments[name] for name in takes if name in arguments and name not in binding.positional}
        watch = active_watch()
        if watch is None or not watch.measures:
            call(*positional, **named)
        else:
            with measured("periodic_callback", self.id, arguments["update_counter"], watch):
                call(*positional, **named)

    def is_due(self, update_counter: UpdateCounter, hook: Literal["update", "epoch"]) -> bool:
        """Return True if this callback acts in the current round of `after_update` or `after_epoch`."""
        return fires(self.intervals, update_counter, hook) is not None

    def next_due_update(self, update_counter: UpdateCounter) -> int:
        """Return the next update at which this callback acts; the loop does not call it before."""
        return self.intervals.next_due_update(
            update_counter.update, update_counter.updates_per_epoch, update_counter.effective_batch_size
        )

    def updates_till_next_invocation(self, update_counter: UpdateCounter) -> int:
        """Return the number of updates until the next call; a whole interval at an exact multiple."""
        return self.next_due_update(update_counter) - update_counter.update

    def updates_per_interval(self, update_counter: UpdateCounter) -> int:
        """Return the number of updates between two calls."""
        return self.intervals.updates_per_interval(
            update_counter.updates_per_epoch, update_counter.effective_batch_size
        )

    def get_interval_string_verbose(self) -> str:
        """Return the interval as a spec gives it: `every_n_epochs=1`."""
        return self.intervals.verbose


class PeriodicDataIteratorCallback(PeriodicCallback, ABC):
    """Base class of callbacks that iterate over a whole data set when their interval fires.

    Subclasses override `process_data`, called with each batch, and `process_results`, called once with all results:
    tensors are concatenated along their first dimension, in the order of the data set; dicts, tuples and lists of them
    item by item; numbers become one tensor. Batches come through the workers that load training data.

    Attributes:
        dataset_key: Key of the data set; None for the first one of the run.
        total_data_time: Seconds spent waiting for batches, over all calls.
    """

    def __init__(
        self,
        callback_config: PeriodicDataIteratorCallbackConfig,
        trainer: RunningTrainer,
        model: ModelBase,
        data_container: DataContainer,
        tracker: BaseTracker,
        log_writer: LogWriter,
        checkpoint_writer: CheckpointWriter,
        metric_property_provider: MetricPropertyProvider,
        name: str | None = None,
    ) -> None:
        super().__init__(
            callback_config,
            trainer,
            model,
            data_container,
            tracker,
            log_writer,
            checkpoint_writer,
            metric_property_provider,
            name,
        )
        self.dataset_key = callback_config.dataset_key
        self.properties = set(callback_config.properties) if callback_config.properties else None
        self.max_size = callback_config.max_size
        self.total_data_time = 0.0
        self._sampler_config: SamplerIntervalConfig | None = None
        self._pass: DatasetPass | None = None
        self._present: tuple[str, ...] = ()  # the properties of a batch, once there was one

    @classmethod
    def acts_at_the_end(cls) -> bool:
        """Return True if a subclass overrides `after_training`; this class only logs how long it waited."""
        return cls.after_training is not PeriodicDataIteratorCallback.after_training

    @property
    def sampler_config(self) -> SamplerIntervalConfig:
        """The request to the data stream, made on first use unless a subclass has set another one."""
        if self._sampler_config is None:
            self._sampler_config = self._sampler_config_from_key(self.dataset_key, self.properties, self.max_size)
        return self._sampler_config

    @sampler_config.setter
    def sampler_config(self, sampler_config: SamplerIntervalConfig) -> None:
        self._sampler_config = sampler_config

    def _sampler_config_from_key(
        self, key: str | None, properties: set[str] | None = None, max_size: int | None = None
    ) -> SamplerIntervalConfig:
        """Return the request to the data stream for the data set `key`.

        Args:
            key: Key in the data container; None for its first data set.
            properties: Load only these properties of a sample.
            max_size: Use at most this many samples, from the first on.

        Raises:
            DataError: if the data set does not exist, is empty, or lacks a property.
        """
        try:
            config = self.data_container.sampler_config(
                key,
                every_n_epochs=self.every_n_epochs,
                every_n_updates=self.every_n_updates,
                every_n_samples=self.every_n_samples,
                batch_size=self._own_batch_size,
                properties=properties,
                max_size=max_size,
            )
        except DataError as error:
            error.add_note(f"requested by callback '{self.id}'")
            raise
        if not length_of(config.dataset):
            name = key or self.data_container.keys()[0]
            raise DataError(f"callback '{self.id}': the data set '{name}' is empty, expected at least one sample")
        return config

    @property
    def data_name(self) -> str:
        """Key of the data set in metric keys."""
        return self.dataset_key or self.data_container.keys()[0]

    def samples_of(self, batch: Any) -> int:
        """Return the number of samples of a batch: in a pass what the stream loaded, whatever a collator made of it.

        Args:
            batch: The batch, for a call outside of a pass; its first property has an entry a sample.
        """
        if self._pass is not None and self._pass.samples:
            return self._pass.samples
        return next((len(value) for value in properties_of(batch).values() if hasattr(value, "__len__")), 1)

    def in_units(self, name: str, tensor: Tensor) -> Tensor:
        """Return predictions or targets of the data set in the units of the training data; see `CallbackBase`."""
        return self.data_container.in_units(name, tensor, self._present)

    @abstractmethod
    def process_data(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> Any:
        """Return the result for one batch, which is on the device of the run."""

    def process_results(
        self, results: Any, *, interval_type: IntervalType, update_counter: UpdateCounter, **_: Any
    ) -> None:
        """Use the results of all batches; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define process_results")

    def periodic_callback(  # type: ignore[override]  # documented signature: the loop always passes these
        self,
        *,
        interval_type: IntervalType,
        update_counter: UpdateCounter,
        data_iter: Iterator[Any],
        trainer_model: torch.nn.Module,
        batch_size: int,
        **_: Any,
    ) -> None:
        """Iterate over the data set and pass the results to `process_results`."""
        results = self._iterate_over_dataset(data_iter, trainer_model, batch_size)
        self.process_results(results, interval_type=interval_type, update_counter=update_counter)

    @without_gradients
    def _iterate_over_dataset(self, data_iter: Iterator[Any], trainer_model: torch.nn.Module, batch_size: int) -> Any:
        """Call `process_data` with every batch and return what `_collate_result` makes of the results.

        Args:
            data_iter: The stream of the run, or any iterator of this data set's batches.
            trainer_model: The model; it is in evaluation mode meanwhile.
            batch_size: Samples of a batch, unless this callback has a batch size of its own.
        """
        dataset_pass = self._pass = DatasetPass(
            self.sampler_config,
            batch_size=batch_size,
            before_batch=self.trainer.raise_if_stopped,
            name=self.id,
            parallel=self.trainer.parallel,
        )
        try:
            with self.trainer.autocast(), explaining_gradients():
                results = dataset_pass.collect(data_iter, trainer_model, self.process_on_device)
        finally:
            self._pass = None
        self.total_data_time += dataset_pass.data_time
        return self._collate_result(results)

    def _collate_result(self, results: list[Any]) -> Any:
        """Return one result for all batches; a subclass may override it for results of other types.

        Args:
            results: The results of `process_data`, one a batch, in the order of the data set.
        """
        return put_together(results)

    def process_on_device(self, batch: dict[str, Tensor], *, trainer_model: torch.nn.Module) -> Any:
        """Return the result of `process_data` for a batch of the stream, which is moved to the device of the run."""
        self._present = tuple(batch) if isinstance(batch, Mapping) else ()
        return self.process_data(self.trainer.to_device(batch), trainer_model=trainer_model)

    def after_training(self, **_: Any) -> None:
        """Log how long evaluation waited for its data."""
        self.logger.debug("%s waited %.2f s for data", self.id, self.total_data_time)


def iterator_callbacks(callbacks: Sequence[CallbackBase]) -> list[PeriodicDataIteratorCallback]:
    """Return the callbacks that iterate over data sets, children included, in the order of their calls."""
    found = []
    for callback in callbacks:
        if isinstance(callback, PeriodicDataIteratorCallback):
            found.append(callback)
        found += iterator_callbacks(callback.get_children())
    return found
