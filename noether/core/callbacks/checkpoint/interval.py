"""`checkpoint`: save weights and optimizer at an interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.periodic import IntervalType, PeriodicCallback
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

    Args:
        callback_config: Interval and contents of a checkpoint.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    calls_model = False
    draws_in_rounds = False
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
        """Return no keys: it logs nothing."""
        return ()

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
