"""`weighted-loss`: one loss function over all fields, each with a weight."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import cached_property, partial
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from noether.config.base import component_of, refused
from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.config.parameters import label
from noether.config.signature import SignatureConfig
from noether.data.collators import MASK, by_field, described, of_only_field
from noether.data.dataset import gathering, length_of
from noether.errors import DataError, TrainingError
from noether.kernel.names import TARGET
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.config import BaseTrainerConfig
from noether.training.trainers.torch_losses import TorchLoss, is_per_point
from noether.training.trainers.types import Counted


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
        without = [field for field in weights if f"{field}{TARGET}" not in (targets or ())]
        if targets and without:
            raise refused(
                f"unknown fields in field_weights: found {without}, expected fields of target_properties = {targets}",
                hint=f"add '{without[0]}_target' to target_properties, or correct the field's name",
                below=(without[0],),
            )
        return weights


class WeightedLossTrainer(BaseTrainer):
    """Trainer that compares the output `field` with the property `{field}_target`, for each weighted field."""

    def __init__(self, trainer_config: WeightedLossTrainerConfig, **kwargs: Any) -> None:
        super().__init__(trainer_config, **kwargs)
        self.loss_items: list[tuple[str, float]] = list(trainer_config.field_weights.items())
        self._comparisons = [(f"{field}_loss", field, f"{field}{TARGET}", weight) for field, weight in self.loss_items]
        self._seen: set[str] = set()
        self.track_outputs = trainer_config.track_outputs
        component = component_of(trainer_config.loss_fn)
        loss_config = trainer_config.loss_fn
        options = loss_config.arguments() if isinstance(loss_config, SignatureConfig) else {}
        self.loss_fn = partial(component.target, **options) if options else component.target
        self._own_loss = component.target
        self._has_compared = getattr(self._own_loss, "different_shapes", self.different_shapes)
        self._counts = False  # decided on the first batch: a mean over samples costs nothing beside the loss itself
        self._points: tuple[Tensor, Tensor] | None = None

    @cached_property
    def _torch_loss(self) -> TorchLoss | None:
        """The loss as one of torch; None for one of the project."""
        return TorchLoss.of(self.loss_fn, ragged=bool(self.data_container.collators))

    @cached_property
    def _needs_mask(self) -> bool:
        """True if the loss is one of the project whose parameter `mask` has no default."""
        if self._torch_loss is not None:
            return False
        parameter = inspect.signature(self.loss_fn).parameters.get(MASK)
        return parameter is not None and parameter.default is inspect.Parameter.empty

    @property
    def average(self) -> str:  # type: ignore[override]  # a trainer of a user may assign it
        """The values that the loss is a mean of, in words."""
        return super().average if self._torch_loss is None else self._torch_loss.average

    @property
    def ignore_index(self) -> int | None:  # type: ignore[override]
        """Target class that the loss leaves out, and metrics with it; None without one."""
        return None if self._torch_loss is None else self._torch_loss.ignore_index

    @classmethod
    def loss_names(cls, config: WeightedLossTrainerConfig) -> tuple[str, ...]:
        """Return one name a field."""
        return tuple(f"{field}_loss" for field in config.field_weights)

    def loss_compute(
        self, forward_output: dict[str, Tensor], targets: dict[str, Tensor]
    ) -> dict[str, Tensor | Counted] | tuple[dict[str, Tensor | Counted], dict[str, Tensor]]:
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
                    if not self._seen:
                        self._counts = self._has_counts(targets)
                    self._look_at_shapes(field, output, wanted)
                if self._counts:
                    loss = self._counted(field, output, wanted, targets)
                else:
                    loss = self.loss_fn(input=output, target=wanted)
                losses[name] = loss if weight == 1.0 else loss * weight
        except (AttributeError, TypeError):
            _check_types(field, output, wanted)
            raise
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
            named = of_only_field(output, dict(self.loss_items))
            return named if type(named) is dict else {}
        found: Any = by_field(output)
        if isinstance(found, dict):
            return found
        places = ", ".join(f"{field} = {index}" for index, (field, _) in enumerate(self.loss_items))
        raise TrainingError(
            f"wrong output of the model: found {described(output)}, expected a dict by field or one tensor",
            hint="return {" + ", ".join(f"'{field}': …" for field, _ in self.loss_items) + "} from its forward, or say "
            f"in [trainer] where the fields are: outputs = {{ {places} }}",
        )

    def _has_counts(self, targets: dict[str, Tensor]) -> bool:
        """Return True if batches may be means over different numbers of values, so that each loss needs its count."""
        loss = self._torch_loss
        if self.has_masks or loss is None:
            return self.has_masks or self._needs_mask
        names = [name for _, _, name, _ in self._comparisons if isinstance(targets.get(name), Tensor)]
        return not loss.is_plain((targets[name], partial(self._may_ignore, name, loss.ignore_index)) for name in names)

    def _may_ignore(self, name: str, ignored: Any) -> bool:
        """Return False if all data sets are in memory, and no target is of the ignored class."""
        for key in self.data_container.keys():  # noqa: SIM118 -- not a mapping
            dataset = self.data_container.get_dataset(key)
            if gathering(dataset) is None or not getattr(dataset, "deterministic", False):
                return True
            with suppress(DataError):  # a data set may lack this target
                targets = gathering(self.data_container.get_dataset(key, properties=[name]))
                for indices in torch.split(torch.arange(length_of(dataset)), 4096):
                    if targets is None or (targets.__getitems__(indices)[name] == ignored).any():
                        return True
        return False

    def _counted(self, field: str, output: Tensor, target: Tensor, targets: dict[str, Tensor]) -> Any:
        """Return the loss of a field with its count, over the valid points if the batch is padded."""
        mask = targets.get(MASK) if self.has_masks else None
        if self._torch_loss is not None:
            if mask is not None and (self._points is None or self._points[0] is not mask):
                self._points = mask, mask.sum()  # one count for all fields
            return self._torch_loss(output, target, mask, None if mask is None or not self._points else self._points[1])
        if mask is None or not is_per_point(target, mask):
            if self._needs_mask:
                raise TrainingError(
                    f"the loss {label(self._own_loss)} needs a mask, and '{field}' has none: found a target of shape "
                    f"{tuple(target.shape)}, expected a padded batch and a value for each of its points",
                    hint="give its parameter `mask` the default None, for fields without points",
                )
            return self.loss_fn(input=output, target=target)
        if MASK not in inspect.signature(self._own_loss).parameters:
            raise TrainingError(
                f"the loss {label(self._own_loss)} of '{field}' does not know the valid points of a padded batch",
                hint="give it a parameter `mask`, bool of shape (batch, points), and average over the points where it "
                "is True",
            )
        return self.loss_fn(input=output, target=target, mask=mask)

    def _look_at_shapes(self, field: str, output: Any, target: Any) -> None:
        """Refuse a field whose shapes would broadcast: every sample would be compared with every other."""
        self._seen.add(field)
        _check_types(field, output, target)
        if output.shape == target.shape or getattr(self._own_loss, "different_shapes", False):
            return
        if output.numel() != target.numel() and self._compares_shapes(output, target):
            return
        own = "" if self._torch_loss else "; or set `different_shapes = True` on the loss function, if it means to"
        raise TrainingError(
            f"wrong shape of output '{field}': found {tuple(output.shape)}, expected {tuple(target.shape)} as of "
            "its target; broadcasting would compare every sample with every other",
            hint=f"return {tuple(target.shape)} from the model, or give the target a last dimension of 1 "
            f"(a 'file' data set does it with {field}_target = [\"…\"]){own}",
        )

    def _compares_shapes(self, output: Tensor, target: Tensor) -> bool:
        """Return True if the loss takes different shapes as they are, or cannot broadcast these without an error."""
        if self._torch_loss is not None:
            return not self._torch_loss.is_elementwise
        of_classes = (output.shape[:-1], output.shape[:1] + output.shape[2:])
        if target.shape in of_classes and not target.is_floating_point():
            return True
        try:
            torch.broadcast_shapes(output.shape, target.shape)  # type: ignore[no-untyped-call]  # untyped in torch
        except RuntimeError:
            return True
        return False


def _check_types(field: str, output: Any, target: Any) -> None:
    """Refuse an output or a target of a field that is not a tensor."""
    for name, value in ((f"output '{field}'", output), (f"target '{field}_target'", target)):
        if not isinstance(value, Tensor):
            raise TrainingError(
                f"wrong type of {name}: found {type(value).__name__}, expected a tensor",
                hint=f"return a tensor as '{field}' from the model, and from the data set as '{field}_target'",
            )
