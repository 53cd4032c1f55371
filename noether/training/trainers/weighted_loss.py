"""`weighted-loss`: one loss function over all fields, each with a weight."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field, field_validator
from torch import Tensor

from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.core.schemas.lib import Discriminated, component_of
from noether.core.schemas.signature import SignatureConfig
from noether.errors import TrainingError
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.config import BaseTrainerConfig


class WeightedLossTrainerConfig(BaseTrainerConfig[CallBackBaseConfig]):
    """Settings of the `weighted-loss` trainer."""

    field_weights: dict[str, float] = Field(
        description="Weight of each field's loss; a field is compared with its target."
    )
    loss_fn: Annotated[Any, Discriminated("loss")] = Field(
        "mse",
        validate_default=True,
        description="Loss of a field: a short name, a dotted path, or a table with options.",
    )

    @field_validator("field_weights")
    @classmethod
    def _has_fields(cls, weights: dict[str, float]) -> dict[str, float]:
        if not weights:
            raise ValueError("field_weights needs at least one field")
        return weights


class WeightedLossTrainer(BaseTrainer):
    """Compares the model's output `field` with the batch's `{field}_target` for each weighted field.

    Args:
        trainer_config: Weights and loss, beside what every trainer has.
        **kwargs: What `BaseTrainer` takes.
    """

    def __init__(self, trainer_config: WeightedLossTrainerConfig, **kwargs: Any) -> None:
        super().__init__(trainer_config, **kwargs)
        self.loss_items: list[tuple[str, float]] = list(trainer_config.field_weights.items())
        self._plan = [(f"{field}_loss", field, f"{field}_target", weight) for field, weight in self.loss_items]
        component = component_of(trainer_config.loss_fn)
        loss_config = trainer_config.loss_fn
        options = loss_config.arguments() if isinstance(loss_config, SignatureConfig) else {}
        self.loss_fn = partial(component.target, **options) if options else component.target

    def loss_compute(self, forward_output: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted loss of each field, named `{field}_loss`.

        Args:
            forward_output: The model's output by field; a bare tensor stands for the only field.
            targets: Targets by property, `{field}_target` each.

        Raises:
            TrainingError: A field has no output or no target.
        """
        if type(forward_output) is not dict and isinstance(forward_output, Tensor):
            forward_output = {self.loss_items[0][0]: forward_output} if len(self.loss_items) == 1 else {}
        losses = {}
        try:
            for name, field, target, weight in self._plan:
                loss = self.loss_fn(input=forward_output[field], target=targets[target])
                losses[name] = loss if weight == 1.0 else loss * weight
        except KeyError as error:
            if field in forward_output and target in targets:
                raise  # it came out of the loss function
            raise TrainingError(
                f"field_weights names '{field}', but {error} is missing: the model returned "
                f"{sorted(forward_output) or 'one tensor'}, the targets are {sorted(targets)}",
                hint=f"let the model return '{field}', and name '{target}' in target_properties",
            ) from error
        return losses
