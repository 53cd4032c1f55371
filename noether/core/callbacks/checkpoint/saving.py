"""`checkpoint` and `best-checkpoint`: save weights and optimizer at an interval, or when a metric has improved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.base import CallbackBase, logs
from noether.core.callbacks.early_stoppers import Tolerances, direction_of
from noether.core.callbacks.evaluation import EvaluationStream
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback, iterator_callbacks
from noether.core.callbacks.tree import NestedCallbacks
from noether.core.models.base import ModelBase
from noether.core.models.composite import CompositeModel
from noether.errors import SpecError
from noether.kernel.progress import UpdateCounter


def check_parts(names: Sequence[str] | None, model: ModelBase, callback: CallbackBase) -> None:
    """Check before training that all parts named in `model_names` exist; only a composite has parts.

    Args:
        names: The callback's `model_names`.
        model: The model that is trained.
        callback: The callback, for the message.

    Raises:
        SpecError: if a composite has no part of a name.
    """
    if names is not None and not isinstance(model, CompositeModel):
        callback.logger.info("'%s' ignores model_names: the model is not a composite, and is saved whole", callback.id)
    elif unknown := set(names or ()) - model.submodels.keys():
        raise SpecError(
            f"callback '{callback.id}': unknown model_names: found {sorted(unknown)}, expected parts of the model",
            hint=f"the parts of the model are {', '.join(model.submodels)}",
        )


def parts_to_save(names: Sequence[str] | None, model: ModelBase) -> Sequence[str] | None:
    """Return the parts to save; None for all of them, so that naming every part makes a whole checkpoint."""
    if names is None or not isinstance(model, CompositeModel) or set(names) >= model.submodels.keys():
        return None
    return names


class CheckpointCallbackConfig(CallBackBaseConfig):
    """Config of the `checkpoint` callback; by default a checkpoint holds the whole state of the run."""

    name: Literal["CheckpointCallback"] = Field("CheckpointCallback", description="Name of the class.")
    save_weights: bool = Field(True, description="True to save the weights in each checkpoint.")
    save_optim: bool = Field(
        True,
        description="True to save the optimizer's state in each checkpoint; without it a run cannot resume from it.",
    )
    save_latest_weights: bool = Field(
        True, description="True to save the weights in the newest checkpoint, which takes them from the one before."
    )
    save_latest_optim: bool = Field(True, description="The same for the optimizer's state.")
    model_names: list[str] | None = Field(
        None, examples=[["encoder"]], description="Parts of a composite model to save; unset: all."
    )

    @model_validator(mode="after")
    def _saves_something(self) -> CheckpointCallbackConfig:
        if not any((self.save_weights, self.save_optim, self.save_latest_weights, self.save_latest_optim)):
            raise ValueError(
                "nothing to save: found all save options false, expected at least one true; set save_weights = true"
            )
        return self


class CheckpointCallback(PeriodicCallback):
    """Request a checkpoint when its interval fires, and the checkpoint named `last` at the end.

    ```toml
    [[trainer.callbacks]]
    kind = "checkpoint"
    every_n_epochs = 1
    ```
    """

    calls_model = False
    draws_in_rounds = False
    produced_metrics = logs()
    saves_checkpoints: ClassVar[bool] = True

    def __init__(self, callback_config: CheckpointCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.save_weights = callback_config.save_weights
        self.save_optim = callback_config.save_optim
        self.save_latest_weights = callback_config.save_latest_weights
        self.save_latest_optim = callback_config.save_latest_optim
        self.model_names = callback_config.model_names

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Check that all parts named in `model_names` exist.

        Raises:
            SpecError: if the model has no part of a name.
        """
        check_parts(self.model_names, self.model, self)

    def periodic_callback(self, *, interval_type: IntervalType, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Request a checkpoint at this update."""
        if interval_type != "eval":
            self._save(None)

    def after_training(self, **_: Any) -> None:
        """Request the last checkpoint of the run."""
        self._save("last")

    def _save(self, tag: str | None) -> None:
        """Request the parts that stay, and those that only the newest checkpoint has."""
        save = partial(self.checkpoint_writer.save, tag, model_names=parts_to_save(self.model_names, self.model))
        if self.save_weights or self.save_optim:
            save(save_weights=self.save_weights, save_optim=self.save_optim)
        if self.save_latest_weights > self.save_weights or self.save_latest_optim > self.save_optim:
            save(save_weights=self.save_latest_weights, save_optim=self.save_latest_optim, newest_of=self.id)


def best_tag(metric_key: str, tolerance: int | None = None) -> str:
    """Return the name of the best checkpoint: `best_model.loss.test.total`, `best_model.loss.test.total.tolerance=5`.

    Args:
        metric_key: Key of the metric, with the prefix under which it is logged.
        tolerance: Tolerance of early stopping that would have kept this checkpoint; None for the best of all.
    """
    return f"best_model.{_with_dots(metric_key)}" + ("" if tolerance is None else f".tolerance={tolerance}")


def best_key(metric_key: str, tolerance: int | None = None) -> str:
    """Return the key of the best value: `loss/test/total/best`, `loss/test/total/best/tolerance=5`."""
    return f"{metric_key}/best" + ("" if tolerance is None else f"/tolerance={tolerance}")


def best_prefix(metric_key: str) -> str:
    """Return the prefix of the metrics that are computed on a new best: `best=loss.test.total/`."""
    return f"best={_with_dots(metric_key)}/"


def _with_dots(metric_key: str) -> str:
    return metric_key.replace("/", ".")


class BestCheckpointCallbackConfig(CallBackBaseConfig):
    """Config of the `best-checkpoint` callback."""

    children_need_interval: ClassVar[bool] = False

    name: Literal["BestCheckpointCallback"] = Field("BestCheckpointCallback", description="Name of the class.")
    metric_key: str = Field(
        min_length=1, examples=["loss/test/total"], description="Key of the metric whose best value is followed."
    )
    higher_is_better: bool | None = Field(
        None, description="True if higher values are better; unset: derived from the metric key."
    )
    tolerances: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        examples=[[5, 10]],
        description="Also name the checkpoints that early stopping would have kept, for each n after more than n "
        "intervals in a row without improvement.",
    )
    model_names: list[str] | None = Field(
        None, examples=[["encoder"]], description="Parts of a composite model to save; unset: all."
    )
    save_frozen_weights: bool = Field(True, description="True to also save parameters that do not train.")
    eval_callbacks: list[Annotated[Any, Discriminated(CallBackBaseConfig)]] | None = Field(
        None,
        examples=[[{"kind": "offline-loss", "dataset_key": "test"}]],
        description="Callbacks to call on every new best; their own intervals are ignored.",
    )


class BestCheckpointCallback(PeriodicCallback):
    """Save the weights on each new best value of a metric, as `best_model.<metric with dots for slashes>`.

    Only a finite, strictly better value is a new best; of equal values the first one stays. For each tolerance the
    best checkpoint also gets the name `best_model.<metric>.tolerance=<n>`, for good, at the moment when more than n
    intervals in a row had no improvement. So one run shows the results of early stopping with several patiences.

    `eval_callbacks` are called on every new best. Their metrics begin with `best=<metric with dots for slashes>/`, and
    their data comes through a stream of its own.

    ```toml
    [[trainer.callbacks]]
    kind = "best-checkpoint"
    every_n_epochs = 1
    metric_key = "loss/val/total"
    tolerances = [5, 10]

    [[trainer.callbacks.eval_callbacks]]
    kind = "offline-loss"
    dataset_key = "test"
    ```

    Attributes:
        higher_is_better: True if higher values of the metric are better.
        eval_callbacks: The children.

    Raises:
        UnknownDirectionError: if neither the config nor the key tells the direction of the metric.
    """

    passes_on: ClassVar[frozenset[str]] = frozenset(
        {"before_training", "after_update", "after_epoch", "at_eval", "after_training"}
    )

    def __init__(self, callback_config: BestCheckpointCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metric_key = callback_config.metric_key
        self.model_names = callback_config.model_names
        self.save_frozen_weights = callback_config.save_frozen_weights
        self.higher_is_better = direction_of(
            self.metric_key, callback_config.higher_is_better, self.metric_property_provider
        )
        self._progress = Tolerances(callback_config.tolerances or (), higher_is_better=self.higher_is_better)
        self._children = NestedCallbacks(
            callback_config.eval_callbacks or [],
            {name: value for name, value in kwargs.items() if name != "name"},
            passes_on=self.passes_on,
            metric_prefix=best_prefix(self.metric_key),
        )
        self.eval_callbacks: list[CallbackBase] = self._children.members
        self._stream = EvaluationStream(
            self.data_container,
            lambda: [child.sampler_config for child in iterator_callbacks(self.eval_callbacks)],
            device=self.trainer.device,
            parallel=self.trainer.parallel,
        )

    # Declarations, read before it is built

    @classmethod
    def produced_metrics(cls, config: BestCheckpointCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs after training."""
        return tuple(best_key(config.metric_key, tolerance) for tolerance in (None, *(config.tolerances or ())))

    @classmethod
    def consumed_metrics(cls, config: BestCheckpointCallbackConfig) -> tuple[str, ...]:
        """Return the key of the metric that it follows."""
        return (config.metric_key,)

    @classmethod
    def child_metric_prefixes(cls, config: BestCheckpointCallbackConfig) -> tuple[str, ...]:
        """Return the one prefix of its children's keys."""
        return (best_prefix(config.metric_key),)

    @classmethod
    def acts_at_the_end(cls) -> bool:
        """Return False: there is nothing to log if its interval never fired."""
        return False

    # State

    @property
    def best_metric_value(self) -> float:
        """Best value of the metric; before the first one the worst possible, an infinity."""
        return self._progress.best.or_worst

    @best_metric_value.setter
    def best_metric_value(self, value: float) -> None:
        self._progress.best.begin_from(value)

    @property
    def tolerance_counter(self) -> int:
        """Number of intervals in a row without improvement."""
        return self._progress.best.without_improvement

    @tolerance_counter.setter
    def tolerance_counter(self, intervals: int) -> None:
        self._progress.best.without_improvement = intervals

    @property
    def tolerances_is_exceeded(self) -> Mapping[int, bool]:
        """True for each tolerance that was exceeded so far: more intervals in a row had no improvement; read-only."""
        return MappingProxyType({n: n in self._progress.kept for n in self._progress.tolerances})

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, the intervals since, and the values kept for each tolerance."""
        return self._progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value of an earlier session."""
        self._progress.load_state_dict(state_dict)

    # Children

    def nested(self) -> Sequence[NestedCallbacks]:
        """Return the children."""
        return (self._children,)

    def get_children(self) -> list[CallbackBase]:
        """Return the children without a data set: the run's stream cannot know when the others are called."""
        return [child for child in self.eval_callbacks if not iterator_callbacks([child])]

    def _evaluate(self, arguments: dict[str, Any]) -> None:
        if self.eval_callbacks:
            batches = self._stream.passes(arguments["batch_size"])
            self._children.call("at_eval", {**arguments, "data_iter": batches})

    def close(self) -> None:
        """Stop the workers that load the children's data."""
        self._stream.close()

    # Hooks

    def before_training(self, *, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Reserve the checkpoint name, and check that all parts named in `model_names` exist.

        Raises:
            SpecError: if the model has no part of a name, or another callback follows the same metric.
        """
        self.checkpoint_writer.reserve(self._tag(), self.id)
        check_parts(self.model_names, self.model, self)
        self._children.call("before_training", {"update_counter": update_counter, **kwargs})

    def periodic_callback(self, *, interval_type: IntervalType, **arguments: Any) -> None:
        """Compare the metric of this round with the best one; save and evaluate a new best.

        In an evaluation outside of training there is nothing to compare; the children evaluate the model as it is.

        Raises:
            MissingMetricError: if the metric was not logged in this round; it is a `KeyError`.
        """
        if interval_type == "eval" or self._follow():
            self._evaluate(arguments)

    def after_training(self, **kwargs: Any) -> None:
        """Log the best value, overall and for each tolerance, and name the checkpoints of tolerances not exceeded."""
        progress = self._progress
        for tolerance in (None, *progress.tolerances):
            value = progress.best.value if tolerance is None else progress.best_within(tolerance)
            if value is not None:
                self.writer.add_scalar(best_key(self.metric_key, tolerance), value)
            if tolerance is not None and tolerance not in progress.kept:
                self._keep_best_as(tolerance)
        self._children.call("after_training", kwargs)

    # Checkpoints

    def _tag(self, tolerance: int | None = None) -> str:
        # With the prefix: an `ema` callback has a best checkpoint for each factor.
        return best_tag(self.writer.prefix + self.metric_key, tolerance)

    def _follow(self) -> bool:
        """Compare the value of this round, request the saves that follow, and return True for a new best."""
        offered = self._progress.offer(self.writer.current(self.metric_key))
        if offered.is_best:
            self._save(self._tag())
        for tolerance in offered.exceeded:
            self._keep_best_as(tolerance)
        return offered.is_best

    def _save(self, tag: str) -> None:
        self.checkpoint_writer.save(
            tag,
            save_weights=True,
            save_optim=False,
            model_names=parts_to_save(self.model_names, self.model),
            save_frozen_weights=self.save_frozen_weights,
        )

    def _keep_best_as(self, tolerance: int) -> None:
        """Give the best checkpoint the name of a tolerance as well."""
        tag = self._tag(tolerance)
        if self._progress.best.value is None:
            self.logger.warning("checkpoint %s does not exist: %s was never finite so far", tag, self.metric_key)
        else:
            self.checkpoint_writer.name(tag, of=self._tag())
