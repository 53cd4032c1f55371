"""`best-checkpoint`: keep the weights of the best value of a metric, and those that stopping early would have kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.best_value import Tolerances
from noether.core.callbacks.checkpoint.interval import check_parts, parts_to_save
from noether.core.callbacks.iterating import EvaluationStream, iterator_callbacks
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.core.callbacks.tree import NestedCallbacks
from noether.kernel.progress import UpdateCounter


def best_tag(metric_key: str, tolerance: int | None = None) -> str:
    """Return the name of the best checkpoint: `best_model.loss.test.total`, `best_model.loss.test.total.tolerance=5`.

    Args:
        metric_key: The metric, with the prefix under which it is logged.
        tolerance: Of the one that early stopping with this tolerance would have kept; None for the best of all.
    """
    return f"best_model.{_with_dots(metric_key)}" + ("" if tolerance is None else f".tolerance={tolerance}")


def best_key(metric_key: str, tolerance: int | None = None) -> str:
    """Return the key of the best value: `loss/test/total/best`, `loss/test/total/best/tolerance=5`."""
    return f"{metric_key}/best" + ("" if tolerance is None else f"/tolerance={tolerance}")


def best_prefix(metric_key: str) -> str:
    """Return what stands before the metrics that are computed on a new best: `best=loss.test.total/`."""
    return f"best={_with_dots(metric_key)}/"


def _with_dots(metric_key: str) -> str:
    return metric_key.replace("/", ".")


class BestCheckpointCallbackConfig(CallBackBaseConfig):
    """Settings of the `best-checkpoint` callback."""

    children_need_interval: ClassVar[bool] = False

    name: Literal["BestCheckpointCallback"] = Field("BestCheckpointCallback", description="Name of the class.")
    metric_key: str = Field(
        min_length=1, examples=["loss/test/total"], description="The metric whose best value is followed."
    )
    higher_is_better: bool | None = Field(
        None, description="Whether a higher value is a better one; unset: as the name of the metric tells."
    )
    tolerances: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        examples=[[5, 10]],
        description="Also name the checkpoints that early stopping after so many intervals without a better value, "
        "and one more, would have kept.",
    )
    model_names: list[str] | None = Field(
        None, examples=[["encoder"]], description="Parts of a composite model to save; unset: all."
    )
    save_frozen_weights: bool = Field(True, description="Whether parameters that do not train are saved too.")
    eval_callbacks: list[Annotated[Any, Discriminated(CallBackBaseConfig)]] | None = Field(
        None,
        examples=[[{"kind": "offline-loss", "dataset_key": "test"}]],
        description="Callbacks to call on every new best; intervals of their own do not count.",
    )


class BestCheckpointCallback(PeriodicCallback):
    """Saves the weights whenever a metric is better than ever before, as `best_model.<metric with dots for slashes>`.

    Better is strictly better: of equal values the first one stays, and what is not finite is never the best. For each
    tolerance the best checkpoint gets the name `best_model.<metric>.tolerance=<n>` too, at the moment when more than n
    intervals in a row had no better value, and keeps it. So one run tells what several patiences would have led to.

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

    Args:
        callback_config: Interval, metric, tolerances, and what to save.
        **kwargs: What `PeriodicCallback` takes.

    Attributes:
        higher_is_better: Whether a higher value of the metric is a better one.
        eval_callbacks: The children.

    Raises:
        UnknownDirectionError: Nothing says which way the metric gets better.
    """

    passes_on: ClassVar[frozenset[str]] = frozenset(
        {"before_training", "after_update", "after_epoch", "at_eval", "after_training"}
    )

    def __init__(self, callback_config: BestCheckpointCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metric_key = callback_config.metric_key
        self.model_names = callback_config.model_names
        self.save_frozen_weights = callback_config.save_frozen_weights
        higher = callback_config.higher_is_better
        if higher is None:
            higher = self.metric_property_provider.higher_is_better(self.metric_key)
        self.higher_is_better: bool = higher
        self._progress = Tolerances(callback_config.tolerances or (), higher_is_better=higher)
        self._children = NestedCallbacks(
            callback_config.eval_callbacks or [],
            {name: value for name, value in kwargs.items() if name != "name"},
            passes_on=self.passes_on,
            metric_prefix=best_prefix(self.metric_key),
        )
        self.eval_callbacks: list[CallbackBase] = self._children.members
        self._stream = EvaluationStream(self.data_container, self.eval_callbacks, device=self.trainer.device)

    # What can be said of it before it is built

    @classmethod
    def produced_metrics(cls, config: BestCheckpointCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return what it logs after training."""
        return tuple(best_key(config.metric_key, tolerance) for tolerance in (None, *(config.tolerances or ())))

    @classmethod
    def consumed_metrics(cls, config: BestCheckpointCallbackConfig) -> tuple[str, ...]:
        """Return the metric that it follows."""
        return (config.metric_key,)

    @classmethod
    def child_metric_prefixes(cls, config: BestCheckpointCallbackConfig) -> tuple[str, ...]:
        """Return the one prefix of its children."""
        return (best_prefix(config.metric_key),)

    @classmethod
    def acts_at_the_end(cls) -> bool:
        """It has nothing to sum up where its interval has never fired."""
        return False

    # How it stands

    @property
    def best_metric_value(self) -> float:
        """The best value of the metric; before the first one the worst there is, an infinity."""
        if self._progress.best.value is None:
            return -math.inf if self.higher_is_better else math.inf
        return self._progress.best.value

    @property
    def tolerance_counter(self) -> int:
        """Intervals in a row without a better value."""
        return self._progress.counter

    @property
    def tolerances_is_exceeded(self) -> dict[int, bool]:
        """Whether there have ever been more intervals in a row without a better value, by tolerance."""
        return {tolerance: tolerance in self._progress.kept for tolerance in self._progress.tolerances}

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and how far each tolerance is used up."""
        return self._progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value of an earlier session."""
        self._progress.load_state_dict(state_dict)

    # Its children

    def nested(self) -> Sequence[NestedCallbacks]:
        """Return the children."""
        return (self._children,)

    def get_children(self) -> list[CallbackBase]:
        """Return the children that go through no data set: the run's stream cannot know when the others are called."""
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
        """Check that the parts of the model that are to be saved exist, and that nobody else uses its names.

        Raises:
            SpecError: `model_names` names something that the model has not, or another callback follows the metric.
        """
        self.checkpoint_writer.reserve(self._tag(), self.id)
        check_parts(self.model_names, self.model, callback_id=self.id)
        self._children.call("before_training", {"update_counter": update_counter, **kwargs})

    def periodic_callback(self, *, interval_type: IntervalType, **arguments: Any) -> None:
        """Compare the metric of this round with the best one; save and evaluate a new best.

        Outside of training there is nothing to compare: the children evaluate the model as it is.

        Raises:
            MissingMetricError: A `KeyError`: nobody has logged the metric in this round.
        """
        if interval_type == "eval" or self._follow():
            self._evaluate(arguments)

    def after_training(self, **kwargs: Any) -> None:
        """Log the best value, over all and for each tolerance, and name the checkpoints of tolerances that held."""
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
        # With the prefix: below an EMA there is a best checkpoint for each factor.
        return best_tag(self.writer.prefix + self.metric_key, tolerance)

    def _follow(self) -> bool:
        """Compare the value of this round, ask for what it leads to, and return whether it is a new best."""
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
            self.logger.warning("there is no %s: %s has never been finite so far", tag, self.metric_key)
        else:
            self.checkpoint_writer.name(tag, of=self._tag())
