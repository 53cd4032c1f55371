"""`ema`: exponential moving averages of the weights, and evaluation on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from noether.checkpoint.paths import PathProvider
from noether.config.base import refused
from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.callbacks.base import CallbackBase, logs
from noether.core.callbacks.checkpoint.averages import (
    Average,
    find_averages,
    flattened,
    load_averages,
)
from noether.core.callbacks.checkpoint.saving import CheckpointCallbackConfig
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.core.callbacks.tree import NestedCallbacks
from noether.core.models.base import ModelBase
from noether.core.models.weights import LiveWeights, shares_memory
from noether.errors import TrainingError
from noether.kernel.hookspecs import when_due
from noether.kernel.progress import UpdateCounter


class EmaCallbackConfig(CallBackBaseConfig):
    """Config of the `ema` callback."""

    name: Literal["EmaCallback"] = Field("EmaCallback", description="Name of the class.")
    target_factors: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        min_length=1, examples=[[0.999]], description="Weight of the past in the average; one average for each factor."
    )
    model_paths: list[str | None] | None = Field(
        None,
        examples=[["encoder"]],
        description="Parts of the model to average, as prefixes of weight names; `composite_model.encoder` is the same "
        "as `encoder`. Unset: all.",
    )
    save_weights: bool = Field(True, description="True to save the averages when the interval fires.")
    save_last_weights: bool = Field(True, description="True to save the averages at the end of training.")
    save_latest_weights: bool = Field(
        False, description="True to save the averages when the interval fires, in place of those before."
    )
    flat_parameters: bool = Field(
        False,
        description="True to keep all parameters in one buffer; many small parameters are then cheaper to average.",
    )
    eval_callbacks: list[Annotated[Any, Discriminated(CallBackBaseConfig)]] | None = Field(
        None,
        examples=[[{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}]],
        description="Callbacks that run on the averaged weights, at their own intervals, once for each factor.",
    )

    @field_validator("target_factors")
    @classmethod
    def _are_different(cls, factors: list[float]) -> list[float]:
        if len(set(factors)) < len(factors):
            raise ValueError(f"repeated factors: found {factors}, expected each factor once")
        return factors

    @field_validator("eval_callbacks")
    @classmethod
    def _save_nothing(cls, callbacks: list[Any] | None) -> list[Any] | None:
        for place, callback in _with_children(callbacks):
            if isinstance(callback, CheckpointCallbackConfig):
                message = "a checkpoint callback cannot be nested in an ema callback"
                raise refused(
                    message, hint="set save_weights = true on the ema callback, which saves its averages", below=place
                )
        return callbacks


def _with_children(callbacks: Sequence[Any] | None, *place: str | int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield callbacks and the callbacks nested in them, each with its place in the spec."""
    for index, callback in enumerate(callbacks or ()):
        yield (*place, index), callback
        yield from _with_children(getattr(callback, "eval_callbacks", None), *place, index, "eval_callbacks")


class EmaCallback(PeriodicCallback):
    """Keep moving averages of the weights, save them, and let other callbacks evaluate them.

    Metrics of its `eval_callbacks` begin with `ema=<factor>/`. Whatever the `save_*` settings, each checkpoint that a
    run can resume from holds the averages: `callbacks/<id>/<factor>.safetensors`, which loads into the model.

    ```toml
    [[trainer.callbacks]]
    kind = "ema"
    every_n_epochs = 5
    target_factors = [0.999]

    [[trainer.callbacks.eval_callbacks]]
    kind = "offline-loss"
    every_n_epochs = 1
    dataset_key = "test"
    ```

    Attributes:
        eval_callbacks: The children by factor.
    """

    changes_files_in_rounds: ClassVar[bool] = False  # averages change after each update, not in rounds
    passes_on: ClassVar[frozenset[str]] = frozenset(
        {"before_training", "after_update", "after_epoch", "at_eval", "after_training"}
    )

    def __init__(self, callback_config: EmaCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.model_paths: list[str | None] = callback_config.model_paths or [None]
        self.target_factors = callback_config.target_factors
        self.save_weights = callback_config.save_weights
        self.save_last_weights = callback_config.save_last_weights
        self.save_latest_weights = callback_config.save_latest_weights
        self._groups = {factor: self._children(factor, kwargs) for factor in self.target_factors}
        self.eval_callbacks: dict[float, list[CallbackBase]] = {
            factor: group.members for factor, group in self._groups.items()
        }
        self._averages: dict[tuple[str | None, float], Average] = {}
        self._is_flat = callback_config.flat_parameters
        self._is_resumed = False
        self._shares_memory = False

    def _children(self, factor: float, arguments: dict[str, Any]) -> NestedCallbacks:
        return NestedCallbacks(
            self.callback_config.eval_callbacks or [],  # type: ignore[attr-defined]  # it is an EmaCallbackConfig
            {name: value for name, value in arguments.items() if name != "name"},
            passes_on=self.passes_on,
            metric_prefix=f"ema={factor}/",
            id_part=str(factor),
            checkpoint_writer=self.checkpoint_writer.standing_for(self, str(factor), is_whole=None in self.model_paths),
        )

    produced_metrics = logs()  # only its children log

    @classmethod
    def child_metric_prefixes(cls, config: EmaCallbackConfig) -> tuple[str, ...]:
        """Return a prefix for each factor."""
        return tuple(f"ema={factor}/" for factor in config.target_factors)

    def nested(self) -> Sequence[NestedCallbacks]:
        """Return the children of each factor."""
        return [group for group in self._groups.values() if group.members]

    def get_children(self) -> list[CallbackBase]:
        """Return all children; their data comes through the run's stream."""
        return [member for group in self._groups.values() for member in group.members]

    # The averages

    @property
    def averages(self) -> dict[tuple[str | None, float], Average]:
        """The averages by path and factor; on first use they start from the current weights."""
        if not self._averages:
            self._begin()
        return self._averages

    def _begin(self) -> None:
        """Start the averages from the current weights."""
        self._averages, self._shares_memory = {}, shares_memory(self.model)
        for path in self.model_paths:
            live = LiveWeights(self.model, path)
            flat = flattened(live) if self._is_flat else None
            self._averages |= {(path, factor): Average(live, factor, flat) for factor in self.target_factors}

    def _of(self, factor: float) -> list[Average]:
        return [average for (_, of), average in self.averages.items() if of == factor]

    def apply_ema(self, cur_model: torch.nn.Module, model_path: str | None, target_factor: float) -> None:
        """Follow one update with one average, in place and in a few calls for all of its tensors.

        Args:
            cur_model: The model of the run; the average holds its weights already.
            model_path: One of `model_paths`.
            target_factor: One of `target_factors`.

        Raises:
            TrainingError: if it is another model.
        """
        if next(cur_model.parameters()) is not next(self.model.parameters()):
            raise TrainingError(f"wrong model in apply_ema: found another one than that of the run of '{self.id}'")
        self.averages[model_path, target_factor].update(_on_device(self.trainer.verdict))

    def track_after_update_step(self, **_: Any) -> None:
        """Follow the update with every average."""
        applied = _on_device(self.trainer.verdict)
        for average in self.averages.values():
            average.update(applied)

    @contextmanager
    def averaged(self, factor: float, *, exchange: bool = True) -> Iterator[None]:
        """Give the model averaged weights inside the context, in which no checkpoint can be requested.

        Args:
            factor: Factor of the average.
            exchange: See `Average.in_place_of_live`.
        """
        reason = f"the model holds the averaged weights of '{self.id}'"
        with self.checkpoint_writer.refusing(reason), ExitStack() as stack:
            for average in self._of(factor):
                stack.enter_context(average.in_place_of_live(exchange=exchange))
            yield

    # State

    def state_files(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the averages, one file for each factor; those of the whole model with all else in its state."""
        others = self._others() if None in self.model_paths else {}
        return {str(factor): {**others, **self._state(factor)} for factor in self.target_factors}

    def _others(self) -> dict[str, Any]:
        """Return what the model's state holds beside parameters and buffers: the extra state of modules."""
        averaged = self._state(self.target_factors[0])
        return {name: value for name, value in self.model.state_dict().items() if name not in averaged}

    def _state(self, factor: float) -> dict[str, Tensor]:
        return {name: tensor for average in self._of(factor) for name, tensor in average.state().items()}

    def resume_from_checkpoint(self, resumption_paths: PathProvider, model: ModelBase) -> None:
        """Restore the averages from the checkpoint that training resumes from, or from the next best place.

        The next places are the newest checkpoint that holds averages, the checkpoint `last`, and the current weights.
        """
        self._begin()  # the weights are restored already
        self._is_resumed = True
        for factor in self.target_factors:
            found = find_averages(resumption_paths, self.id, str(factor))
            if found is None:
                self.logger.warning(
                    "callback '%s' found no averages of factor %s; they start from the current weights", self.id, factor
                )
            else:
                saved, source = found  # the model has restored all else that is in its state
                others = self._others() if None in self.model_paths else {}
                load_averages(self._of(factor), {name: saved[name] for name in saved if name not in others}, source)

    # Hooks

    def before_training(self, **kwargs: Any) -> None:
        """Start from the current weights, unless averages were restored; children see the live weights."""
        if not self._is_resumed:
            self._begin()
        self._pass_on("before_training", kwargs)

    @when_due
    def after_epoch(self, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Save if the epoch interval fires; call the children that are due, on averaged weights."""
        super().after_epoch(update_counter, **kwargs)
        self._evaluate("epoch", {"update_counter": update_counter, **kwargs})

    @when_due
    def after_update(self, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Save if the update or the sample interval fires; call the children that are due, on averaged weights."""
        super().after_update(update_counter, **kwargs)
        self._evaluate("update", {"update_counter": update_counter, **kwargs})

    def at_eval(self, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Call all children, on averaged weights."""
        super().at_eval(update_counter, **kwargs)
        arguments = {"update_counter": update_counter, **kwargs}
        for factor, group in self._groups.items():
            if group.members:
                with self.averaged(factor, exchange=self._may_exchange(arguments)):
                    group.call("at_eval", arguments)

    def periodic_callback(self, *, interval_type: IntervalType, update_counter: UpdateCounter, **_: Any) -> None:
        """Request a save of the averages."""
        if interval_type != "eval" and (self.save_weights or self.save_latest_weights):
            self.checkpoint_writer.save_files(self.id, stays=self.save_weights)

    def after_training(self, **kwargs: Any) -> None:
        """Request a last save of the averages; children see the live weights."""
        if self.save_last_weights:
            self.checkpoint_writer.save_files(self.id)
        self._pass_on("after_training", kwargs)

    def _pass_on(self, hook: str, arguments: Mapping[str, Any]) -> None:
        for group in self._groups.values():
            group.call(hook, arguments)

    def _evaluate(self, hook: Literal["update", "epoch"], arguments: Mapping[str, Any]) -> None:
        for factor, group in self._groups.items():
            if group.is_due(arguments["update_counter"], hook):
                with self.averaged(factor, exchange=self._may_exchange(arguments)):
                    group.call(f"after_{hook}", arguments)

    def _may_exchange(self, arguments: Mapping[str, Any]) -> bool:
        """Return True if storages may be exchanged: other tensors or a wrapped model may hold on to them."""
        return arguments.get("trainer_model") is self.model and not self._shares_memory

    # Due rounds

    def is_due(self, update_counter: UpdateCounter, hook: Literal["update", "epoch"]) -> bool:
        """Return True if this callback or one of its children acts in this round."""
        return super().is_due(update_counter, hook) or any(
            group.is_due(update_counter, hook) for group in self._groups.values()
        )

    def next_due_update(self, update_counter: UpdateCounter) -> int:
        """Return the next update at which this callback or one of its children acts."""
        own = super().next_due_update(update_counter)
        return min([own, *(group.next_due_update(update_counter) for group in self._groups.values())])


def _on_device(verdict: bool | Tensor | None) -> Tensor | None:
    """Return the flag of an update if only the device knows it; an update known to be skipped is not followed."""
    return verdict if isinstance(verdict, Tensor) else None
