"""Outputs of models by field: tensors, mappings, dataclasses, tuples, and batches that lack a property."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from noether.data.batches import named_parts
from noether.errors import TrainingError


def by_field(output: Any, places: Mapping[str, str | int] | None = None) -> Any:
    """Return the parts of a model's output in a dict by field; an output without named parts stays as it is.

    Args:
        output: Return value of a model.
        places: Place of each field in it, as in `outputs` of a trainer's config.

    Raises:
        TrainingError: if the output lacks a place.
    """
    parts = named_parts(output)
    if not places:
        return output if parts is None else dict(parts)
    return {**(parts or {}), **{field: _at(output, place, field) for field, place in places.items()}}


def of_only_field(output: Any, fields: Collection[str]) -> Any:
    """Return one tensor by the name of the only field; other outputs stay as they are."""
    return dict.fromkeys(fields, output) if isinstance(output, Tensor) and len(fields) == 1 else output


def _at(output: Any, place: str | int, field: str) -> Any:
    """Return the part at a place: a key, an attribute, an index, or a path of them."""
    found = output
    parts = [place] if isinstance(place, int) or (isinstance(found, Mapping) and place in found) else place.split(".")
    for part in parts:
        try:
            found = _part(found, part)
        except (LookupError, AttributeError, ValueError) as error:
            raise TrainingError(
                f"wrong place of field '{field}' in the output of the model: found {described(output)}, expected "
                f"{place!r} in it",
                hint=f'correct it in the trainer: outputs = {{ {field} = "…" }}',
            ) from error
    return found


def _part(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value[part]
    if isinstance(value, list | tuple) and not (isinstance(part, str) and hasattr(value, part)):
        return value[int(part)]
    return getattr(value, str(part))


def described(output: Any) -> str:
    """Describe an output for a message: its type, and the names or the number of its parts."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    parts = named_parts(output)
    if parts is not None:
        return f"{type(output).__name__} with {', '.join(map(str, parts)) or 'nothing'}"
    if isinstance(output, list | tuple):
        return f"{type(output).__name__} of {', '.join(map(described, output)) or 'nothing'}"
    return type(output).__name__
