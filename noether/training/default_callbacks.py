"""Callbacks of a trainer: default producers of metrics, the user's callbacks, the trainer's own, default reporters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import TypeAdapter

from noether.checkpoint.writer import CheckpointWriter
from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.config.metric_facts import MetricPropertyProvider
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import build_callback, compile_hooks
from noether.core.models.base import ModelBase
from noether.data.container import DataContainer
from noether.errors import placed
from noether.kernel.dispatch import Dispatch
from noether.kernel.progress import UpdateCounter
from noether.metrics.log import LogWriter
from noether.metrics.tracker import BaseTracker
from noether.spec.fields import configs_in, item_ids
from noether.training.trainers.config import BaseTrainerConfig

PRODUCERS = ("online-loss", "lr")
"""Their metrics may be read by the user's callbacks, so they come first."""
TRACKED = ("train-time", "peak-memory", "eta")
ONE_SHOT = ("dataset-stats", "param-count")

_CALLBACK: TypeAdapter[CallBackBaseConfig] = TypeAdapter(Annotated[Any, Discriminated("callback")])
_LOG_PARTS, _TRACK_PARTS = 100, 500  # without intervals in the spec: every 1 % and every 0.2 % of the run


def is_producer(callback: CallbackBase) -> bool:
    """Return True if a default callback logs metrics that the user's may read."""
    entry = callback.component.entry if callback.component is not None else None
    return entry is not None and entry.is_built_in and entry.name in PRODUCERS


def default_intervals(config: BaseTrainerConfig[Any], end_update: int | None) -> dict[str, dict[str, int]]:
    """Return the interval of progress (`log`) and that of metrics (`track`), as fields of a callback config.

    Without the length of the run, `end_update`, an interval that depends on it is left out.
    """
    intervals = {}
    for verb, parts in (("log", _LOG_PARTS), ("track", _TRACK_PARTS)):
        given = {
            f"every_n_{unit}": getattr(config, f"{verb}_every_n_{unit}") for unit in ("epochs", "updates", "samples")
        }
        given = {name: value for name, value in given.items() if value is not None}
        if not given and end_update is not None:
            given = {"every_n_updates": max(end_update // parts, 1)}
        intervals[verb] = given
    return intervals


def default_configs(config: BaseTrainerConfig[Any], intervals: dict[str, dict[str, int]]) -> list[CallBackBaseConfig]:
    """Return the configs of the default callbacks, producers first; found by kind, as the user's."""
    tables: list[dict[str, Any]] = [{"kind": kind, **intervals["track"]} for kind in PRODUCERS]
    tables += [{"kind": kind} for kind in ONE_SHOT]
    tables += [{"kind": "progress", **intervals["log"]}]
    tables += [{"kind": kind, **intervals["track"]} for kind in TRACKED]
    if config.monitor_training_stability:
        interval = {"every_n_updates": config.monitor_interval} if config.monitor_interval else intervals["track"]
        tables.append({"kind": "training-stability", **interval})
    return [_CALLBACK.validate_python(table) for table in tables]


_CHOOSING_CALLBACKS = (
    "get_all_callbacks",
    "get_user_callbacks",
    "get_trainer_callbacks",
    "get_default_callbacks",
    "get_default_callback_intervals",
)


class ChoosesCallbacks:
    """The methods of a trainer that choose, build and call its callbacks; a subclass may override each of them."""

    config: BaseTrainerConfig[Any]
    data_container: DataContainer
    tracker: BaseTracker
    log_writer: LogWriter
    checkpoint_writer: CheckpointWriter
    metric_property_provider: MetricPropertyProvider
    total_training_updates: int
    callbacks: list[CallbackBase]
    dispatch: Dispatch | None
    update_counter: UpdateCounter
    request_stop: Callable[[str], None]

    @classmethod
    def default_callback_configs(
        cls, config: BaseTrainerConfig[Any], end_update: int | None
    ) -> tuple[list[CallBackBaseConfig], list[CallBackBaseConfig]] | None:
        """Return the configs of the callbacks before and after the user's; None if a subclass chooses others.

        Args:
            config: The trainer's config.
            end_update: Updates of the run; None if they depend on the data, as default intervals then do.
        """
        if any(getattr(cls, name) is not getattr(ChoosesCallbacks, name) for name in _CHOOSING_CALLBACKS):
            return None
        if config.add_default_callbacks is False:
            return [], []
        intervals = default_intervals(config, end_update)
        configs = default_configs(config, intervals)
        first = len(PRODUCERS)
        return configs[:first], configs[first:]

    def get_user_callbacks(self, model: ModelBase, evaluation: bool = False) -> list[CallbackBase]:
        """Build the callbacks of the config, in its order.

        Args:
            model: The model of the callbacks.
            evaluation: Leave out callbacks without `at_eval`.
        """
        default_kwargs = self.callback_default_kwargs(model)
        configs = self.config.callbacks or []
        ids = item_ids([{"id": config.id, "kind": config.kind} for config in configs], "callback")
        named = [config.model_copy(update={"id": name}) for config, name in zip(configs, ids, strict=True)]
        for _, config in configs_in(configs):  # before a callback asks for the direction of a metric
            if isinstance(config, CallBackBaseConfig):
                for pattern, direction in component_of(config).target.metric_directions(config).items():
                    self.metric_property_provider.add(pattern, direction)
        callbacks = []
        for index, config in enumerate(named):
            with placed("trainer", "callbacks", index):
                callbacks.append(build_callback(config, default_kwargs))
        return [callback for callback in callbacks if not evaluation or hasattr(callback, "at_eval")]

    def get_all_callbacks(self, model: ModelBase) -> list[CallbackBase]:
        """Build all callbacks: default producers, the user's, the trainer's own, default reporters."""
        default_kwargs = self.callback_default_kwargs(model)
        defaults = self.get_default_callbacks(default_kwargs) if self.config.add_default_callbacks is not False else []
        own = self.get_trainer_callbacks(default_kwargs) if self.config.add_trainer_callbacks is not False else []
        producers = [callback for callback in defaults if is_producer(callback)]
        reporters = [callback for callback in defaults if not is_producer(callback)]
        return [*producers, *self.get_user_callbacks(model), *own, *reporters]

    def callback_default_kwargs(self, model: ModelBase) -> dict[str, Any]:
        """Return the arguments of every callback's constructor, beside its config."""
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
        """Return the callbacks of this kind of trainer; a subclass may override it."""
        return []

    def get_default_callback_intervals(self) -> dict[str, Any]:
        """Return the intervals of the default callbacks, `log` and `track`."""
        return default_intervals(self.config, self.total_training_updates)

    def get_default_callbacks(self, default_kwargs: dict[str, Any]) -> list[CallbackBase]:
        """Build the default callbacks, producers of metrics first."""
        configs = default_configs(self.config, self.get_default_callback_intervals())
        return [build_callback(config, default_kwargs) for config in configs]

    @torch.no_grad()
    def call_before_training(self, callbacks: list[CallbackBase]) -> None:
        """Call `before_training` of these callbacks; of run plugins too if they are the run's callbacks."""
        if (call := self._hooks_of(callbacks).before_training) is not None:
            call(self.update_counter)

    @torch.no_grad()
    def call_after_training(self, callbacks: list[CallbackBase]) -> None:
        """Call `after_training` of these callbacks; of run plugins too if they are the run's callbacks."""
        if (call := self._hooks_of(callbacks).after_training) is not None:
            call(self.update_counter)

    def _hooks_of(self, callbacks: list[CallbackBase]) -> Dispatch:
        if callbacks is self.callbacks and self.dispatch is not None:
            return self.dispatch
        return compile_hooks(callbacks, on_stop=self.request_stop)
