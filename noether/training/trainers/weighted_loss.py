"""`weighted-loss`: one loss function over all fields, each with a weight."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from noether.config.base import component_of, refused
from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.config.signature import SignatureConfig
from noether.errors import TrainingError
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.config import BaseTrainerConfig
from noether.training.trainers.outputs import by_field, described


class WeightedLossTrainerConfig(BaseTrainerConfig[CallBackBaseConfig]):
    """Settings of the `weighted-loss` trainer."""

    field_weights: dict[str, float] = Field(
        examples=[{"pressure": 1.0, "velocity": 0.5}],
        description="Weight of each field's loss; a field is compared with its target.",
    )
    loss_fn: Annotated[Any, Discriminated("loss")] = Field(
        "mse",
        validate_default=True,
        examples=["l1"],
        description="Loss of a field: a short name, a dotted path, or a table with options.",
    )

    track_outputs: bool = Field(
        False,
        description="Hand the model's output of each field to callbacks too, as the additional output {field}_output.",
    )

    @field_validator("field_weights")
    @classmethod
    def _has_fields(cls, weights: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if not weights:
            raise ValueError("wrong field_weights: found none, expected at least one field")
        targets = info.data.get("target_properties")
        without = [field for field in weights if f"{field}_target" not in (targets or ())]
        if targets and without:
            raise refused(
                f"unknown fields in field_weights: found {without}, expected fields of target_properties = {targets}",
                hint=f"add '{without[0]}_target' to target_properties, or correct the field's name",
                below=(without[0],),
            )
        return weights


class WeightedLossTrainer(BaseTrainer):
    """Trainer that compares the output `field` with the property `{field}_target`, for each weighted field.

    Args:
        trainer_config: Weights and loss, beside the settings of every trainer.
        **kwargs: Arguments of `BaseTrainer`.
    """

    def __init__(self, trainer_config: WeightedLossTrainerConfig, **kwargs: Any) -> None:
        super().__init__(trainer_config, **kwargs)
        self.loss_items: list[tuple[str, float]] = list(trainer_config.field_weights.items())
        self._comparisons = [(f"{field}_loss", field, f"{field}_target", weight) for field, weight in self.loss_items]
        self._seen: set[str] = set()
        self.track_outputs = trainer_config.track_outputs
        component = component_of(trainer_config.loss_fn)
        loss_config = trainer_config.loss_fn
        options = loss_config.arguments() if isinstance(loss_config, SignatureConfig) else {}
        self.loss_fn = partial(component.target, **options) if options else component.target

    @classmethod
    def loss_names(cls, config: WeightedLossTrainerConfig) -> tuple[str, ...]:
        """Return one name a field."""
        return tuple(f"{field}_loss" for field in config.field_weights)

    def loss_compute(
        self, forward_output: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> dict[str, Tensor] | tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weighted loss of each field, named `{field}_loss`; with `track_outputs`, the outputs too.

        Args:
            forward_output: The model's output by field; a bare tensor stands for the only field.
            targets: Targets by property, `{field}_target` each.

        Raises:
            TrainingError: if a field has no output or no target.
        """
        if type(forward_output) is not dict:
            forward_output = self._by_field(forward_output)
        losses = {}
        try:
            for name, field, target, weight in self._comparisons:
                output, wanted = forward_output[field], targets[target]
                if field not in self._seen:
                    self._look_at_shapes(field, output, wanted)
                loss = self.loss_fn(input=output, target=wanted)
                losses[name] = loss if weight == 1.0 else loss * weight
        except KeyError as error:
            if field in forward_output and target in targets:
                raise  # the loss function raised it
            raise TrainingError(
                f"missing output or target of '{field}' in field_weights: found outputs "
                f"{sorted(forward_output) or 'one tensor'} and targets {sorted(targets)}, expected {error}",
                hint=f"return '{field}' from the model or name its place with `outputs`, and add '{target}' to "
                "target_properties",
            ) from error
        if self.track_outputs:
            return losses, {f"{field}_output": forward_output[field] for field, _ in self.loss_items}
        return losses

    def _by_field(self, output: Any) -> dict[str, Tensor]:
        """Return a model's output by field: one tensor stands for the only field."""
        if isinstance(output, Tensor):
            return {self.loss_items[0][0]: output} if len(self.loss_items) == 1 else {}
        found: Any = by_field(output)
        if isinstance(found, dict):
            return found
        places = ", ".join(f"{field} = {index}" for index, (field, _) in enumerate(self.loss_items))
        raise TrainingError(
            f"wrong output of the model: found {described(output)}, expected a dict by field or one tensor",
            hint="return {" + ", ".join(f"'{field}': …" for field, _ in self.loss_items) + "} from its forward, or say "
            f"in [trainer] where the fields are: outputs = {{ {places} }}",
        )

    def _look_at_shapes(self, field: str, output: Tensor, target: Tensor) -> None:
        """Refuse a field whose shapes would broadcast: every sample would be compared with every other."""
        self._seen.add(field)
        if output.shape != target.shape and output.numel() == target.numel():
            raise TrainingError(
                f"wrong shape of output '{field}': found {tuple(output.shape)}, expected {tuple(target.shape)} as of "
                "its target; broadcasting would compare every sample with every other",
                hint=f"return {tuple(target.shape)} from the model, or give the target a last dimension of 1 "
                f"(a 'file' data set does it with {field}_target = [\"…\"])",
            )
