"""Predictor: a trained model with the transforms of its run, from raw inputs to fields in the units of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from noether.config.base import component_of
from noether.data.collators import BATCH_INDEX, moved, of_only_field, properties_of, selected
from noether.data.collators import by_field as parts_by_field
from noether.data.dataset import Batch
from noether.data.fetch import Fetch
from noether.data.randomness import EVALUATION_EPOCH
from noether.errors import DataError, NoetherError, SpecError, TrainingError, error_text
from noether.kernel.names import TARGET
from noether.runs.predict.inputs import Inputs, as_batch
from noether.spec.model import RunSpec
from noether.training.trainers.base import BaseTrainer


class Predictor:
    """Predict fields for raw samples.

    Inputs go through the transforms of the run, and outputs back through them. A prediction needs the properties that
    decide the inputs of the model, and no labels.

    Args:
        model: The model with its weights.
        inputs: The inputs of the run.
        spec: The resolved spec of the run.
        position: Position of the checkpoint.

    Raises:
        SpecError: if the spec does not name the inputs of the model, or its trainer evaluates more than the model.
        DataError: if the transforms change a target and have no inverse.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, spec: RunSpec, position: str) -> None:
        self.model = model.eval()
        self.inputs = inputs
        self.position = position
        self.names: Sequence[str] = spec.trainer.forward_properties or ()
        self.targets = {name.removesuffix(TARGET): name for name in spec.trainer.target_properties or ()}
        self.outputs: Mapping[str, str | int] | None = spec.trainer.outputs
        self.batch_size: int = spec.trainer.max_batch_size or spec.trainer.effective_batch_size
        if not self.names:
            raise SpecError(
                "the spec of the run does not name the inputs of the model: found no trainer.forward_properties",
                hint="list the arguments of the model's forward under forward_properties, and train again",
            )
        trainer = component_of(spec.trainer)
        if trainer.target.forward is not BaseTrainer.forward:
            raise SpecError(
                f"a prediction calls the model alone, and the trainer '{trainer.kind}' has a forward of its own",
                hint="do in the model's forward what the trainer's does, and train again",
            )
        self.fields = list(getattr(spec.trainer, "field_weights", None) or self.targets)
        loss = getattr(spec.trainer, "loss_fn", None)
        self.is_classifier = str(getattr(loss, "kind", loss)).replace("_", "-") == "cross-entropy"
        self._changed = inputs.require_inverses(self.targets.values())

    @torch.no_grad()
    def __call__(
        self,
        given: Mapping[str, Any],
        *,
        batch_size: int | None = None,
        after_batch: Callable[[], object] = lambda: None,
    ) -> dict[str, Tensor]:
        """Return the prediction of each field, on the CPU.

        Args:
            given: Raw properties by name: tensors, arrays or numbers; one sample, or a batch.
            batch_size: Samples in one forward pass; None for that of training.
            after_batch: Called after each forward pass.

        Raises:
            DataError: if a property is missing, or has another shape than in training.
        """
        self._require(given)
        any_size = self.inputs.key in self.inputs.data.collators
        batch, single = as_batch(given, self.inputs.properties, of_any_size=any_size)
        size = len(next(iter(batch.values())))
        if not size:
            raise DataError("no samples: found 0, expected at least 1")
        fetch = self.inputs.fetch(batch, size)
        parts = []
        for indices in torch.split(torch.arange(size), batch_size or self.batch_size):
            outputs, points = self._outputs(fetch, indices, batch)
            outputs = _by_sample(self.by_field(outputs), points, len(indices))
            _require_samples(outputs, len(indices))
            parts.append(self.in_units({field: output.cpu() for field, output in outputs.items()}))
            after_batch()
        fields = {field: torch.cat([part[field] for part in parts]) for field in parts[0]}
        return {field: values[0] for field, values in fields.items()} if single else fields

    @cached_property
    def needed(self) -> list[str]:
        """The raw properties that decide the inputs of the model."""
        return self.inputs.needed_for(self.names)

    def _require(self, given: Mapping[str, Any]) -> None:
        """Check that everything that a prediction needs is given."""
        if not isinstance(given, Mapping):
            raise DataError(
                f"wrong inputs: found {type(given).__name__}, expected a dict by property",
                hint=f"the inputs and their shapes are {self._shapes()}; samples of different sizes one at a time",
            )
        missing = [name for name in self.needed if name not in given]
        if missing:
            raise DataError(
                f"missing inputs: found {', '.join(map(str, given)) or 'none'}, expected {', '.join(missing)}",
                hint=f"the inputs and their shapes are {self._shapes()}",
            )

    def _shapes(self) -> str:
        shapes = {name: ", ".join(["batch", *map(str, self.inputs.properties[name].shape)]) for name in self.needed}
        return ", ".join(f"{name}: ({shape})" for name, shape in shapes.items())

    def _outputs(self, fetch: Fetch, indices: Tensor, given: Batch) -> tuple[Any, int]:
        """Return the outputs of the model for some samples, and the number of points if they are concatenated."""
        device = next((tensor.device for tensor in self.model.parameters()), torch.device("cpu"))
        try:
            batch = fetch(indices, EVALUATION_EPOCH)
            index = () if BATCH_INDEX in self.inputs.properties else properties_of(batch).get(BATCH_INDEX, ())
            return self.model(**moved(selected(batch, self.names), device)), len(index)
        except NoetherError:
            raise
        except Exception as error:
            found = ", ".join(f"{name}: {tuple(given[name].shape[1:])}" for name in self.needed)
            training = ", ".join(f"{name}: {self.inputs.properties[name].shape}" for name in self.needed)
            raise DataError(
                f"the model cannot take these inputs: found samples of shape {found}, expected {training} as in "
                f"training: {error_text(error).splitlines()[0]}"
            ) from error

    def in_units(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs by field in the units of the data, with float32 at least."""
        converted = {}
        for field, output in fields.items():
            if output.is_floating_point():
                output = output.to(torch.promote_types(output.dtype, torch.float32))
            converted[field] = self.inputs.data.inverse(
                self.targets.get(field, f"{field}{TARGET}"), output, self.inputs.key
            )
        return converted

    def by_field(self, outputs: Any) -> dict[str, Tensor]:
        """Return the outputs of the model that have a target; all of them if none has one.

        Raises:
            TrainingError: if it returns neither tensors by name nor one tensor, or no target tells their units.
        """
        only = self.fields if len(self.fields) == 1 else ("output",)
        outputs = of_only_field(parts_by_field(outputs, self.outputs), only)
        named = {}
        if isinstance(outputs, Mapping):
            named = {str(name): value for name, value in outputs.items() if isinstance(value, Tensor)}
        if not named:
            raise TrainingError(
                f"wrong output of the model: found {type(outputs).__name__}, expected a dict by field or one tensor"
            )
        chosen = {field: named[field] for field in self.targets if field in named}
        if not chosen and self._changed:
            raise TrainingError(
                f"outputs of unknown units: found {', '.join(named)}, expected one of {', '.join(self.targets)}, since "
                f"transforms change {', '.join(self._changed)}",
                hint="return a dict by field from the model, or name the place of each field: trainer.outputs",
            )
        return chosen or named


def _by_sample(outputs: dict[str, Tensor], points: int, size: int) -> dict[str, Tensor]:
    """Return outputs with samples along the first dimension, which have an equal number of the concatenated points."""
    apart = [field for field, output in outputs.items() if points != size and output.ndim and len(output) == points]
    return outputs | {field: outputs[field].reshape(size, -1, *outputs[field].shape[1:]) for field in apart}


def _require_samples(outputs: Mapping[str, Tensor], size: int) -> None:
    for field, output in outputs.items():
        if not output.ndim or len(output) != size:
            raise TrainingError(
                f"wrong shape of output {field!r}: found {tuple(output.shape)}, expected {size} samples along "
                "the first dimension"
            )
