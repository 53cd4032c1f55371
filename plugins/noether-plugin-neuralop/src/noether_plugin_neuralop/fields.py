"""A field and the input of a model in a batch, for the callbacks `rollout` and `field-figure`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from noether.errors import TrainingError


def require(batch: Mapping[str, Any], *names: str, callback: str) -> None:
    """Refuse a batch that lacks a property.

    Raises:
        TrainingError: if it does.
    """
    if lacking := [name for name in names if name not in batch]:
        found = ", ".join(batch)
        raise TrainingError(
            f"callback '{callback}': missing property {' and '.join(lacking)}: found {found} in a batch",
            hint="name a field of the model and a property of the data set in the spec: field = …, input = …",
        )


def prediction_of(output: Any, field: str, callback: str) -> Tensor:
    """Return a field of the output of a model; a bare tensor is its only one.

    Raises:
        TrainingError: if the output has no such field.
    """
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, Mapping) or field not in output:
        found = ", ".join(output) if isinstance(output, Mapping) else type(output).__name__
        raise TrainingError(
            f"callback '{callback}': missing output '{field}' of the model: found {found}",
            hint="name a field of the model in the spec: field = …",
        )
    predicted: Tensor = output[field]
    return predicted
