"""`checkpoint`: save weights and optimizer every so often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
from noether.core.models.base import ModelBase
from noether.errors import SpecError
from noether.kernel.progress import UpdateCounter


def check_parts(names: Sequence[str] | None, model: ModelBase, *, callback_id: str) -> None:
    """Check, before training, that the parts that are to be saved exist.

    Args:
        names: The callback's `model_names`.
        model: The model that is trained.
        callback_id: Whose setting it is.

    Raises:
        SpecError: `model_names` names something that the model has not.
    """
    unknown = set(names or ()) - model.submodels.keys()
    if unknown:
        raise SpecError(
            f"callback '{callback_id}': model_names names {sorted(unknown)}, which the model has not",
            hint=f"its parts are {', '.join(model.submodels)}",
        )


def parts_to_save(names: Sequence[str] | None, model: ModelBase) -> Sequence[str] | None:
    """Return the parts to ask a checkpoint for: None for all of them, so that naming each is a save of the whole."""
    if names is not None and set(names) >= model.submodels.keys():
        return None
    return names


class CheckpointCallbackConfig(CallBackBaseConfig):
    """Settings of the `checkpoint` callback; as they stand, a save holds the whole state of the run."""

    name: Literal["CheckpointCallback"] = Field("CheckpointCallback", description="Name of the class.")
    save_weights: bool = Field(True, description="Whether each save holds the weights.")
    save_optim: bool = Field(
        True, description="Whether each save holds the optimizer's state; without it, the save is not the whole state."
    )
    save_latest_weights: bool = Field(True, description="Whether the newest save, `latest`, holds the weights.")
    save_latest_optim: bool = Field(True, description="Whether the newest save holds the optimizer's state.")
    model_names: list[str] | None = Field(
        None, examples=[["encoder"]], description="Parts of a composite model to save; unset: all."
    )

    @model_validator(mode="after")
    def _saves_something(self) -> CheckpointCallbackConfig:
        if not any((self.save_weights, self.save_optim, self.save_latest_weights, self.save_latest_optim)):
            raise ValueError("this checkpoint callback saves nothing: set save_weights or save_optim to true")
        return self


class CheckpointCallback(PeriodicCallback):
    """Asks for a checkpoint when its interval fires, and for the one named `last` at the end.

    ```toml
    [[trainer.callbacks]]
    kind = "checkpoint"
    every_n_epochs = 1
    ```

    Args:
        callback_config: Interval, and what a save holds.
        **kwargs: What `PeriodicCallback` takes.
    """

    saves_checkpoints: ClassVar[bool] = True

    def __init__(self, callback_config: CheckpointCallbackConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.save_weights = callback_config.save_weights
        self.save_optim = callback_config.save_optim
        self.save_latest_weights = callback_config.save_latest_weights
        self.save_latest_optim = callback_config.save_latest_optim
        self.model_names = callback_config.model_names

    @classmethod
    def produced_metrics(cls, config: CheckpointCallbackConfig, facts: MetricFacts) -> tuple[str, ...]:
        """It logs nothing."""
        return ()

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Check that the parts of the model that are to be saved exist.

        Raises:
            SpecError: `model_names` names something that the model has not.
        """
        check_parts(self.model_names, self.model, callback_id=self.id)

    def periodic_callback(self, *, interval_type: IntervalType, update_counter: UpdateCounter, **kwargs: Any) -> None:
        """Ask for a checkpoint of this update."""
        if interval_type != "eval":
            self._save(None)

    def after_training(self, **_: Any) -> None:
        """Ask for the last checkpoint of the run."""
        self._save("last")

    def _save(self, tag: str | None) -> None:
        self.checkpoint_writer.save(
            tag,
            save_weights=self.save_weights or self.save_latest_weights,
            save_optim=self.save_optim or self.save_latest_optim,
            model_names=parts_to_save(self.model_names, self.model),
        )
