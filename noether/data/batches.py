"""Batches and outputs of any type by name: dicts, named tuples, dataclasses, objects of other packages."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noether.errors import TrainingError


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device; an object with a method `to` moves itself."""
    if type(batch) is dict:
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else moved(value, device)
            for name, value in batch.items()
        }
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if callable(getattr(batch, "to", None)) and not isinstance(batch, type):
        result = batch.to(device)
        return batch if result is None else result
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        items = [moved(item, device) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        result = copy.copy(batch)
        for field in dataclasses.fields(batch):
            object.__setattr__(result, field.name, moved(getattr(batch, field.name), device))  # it may be frozen
        return result
    return batch


def properties_of(batch: Any) -> Mapping[str, Any]:
    """Return the properties of a batch or sample by name: entries of a mapping, fields or attributes of an object."""
    parts = named_parts(batch)
    if parts is not None:
        return parts
    keys = getattr(batch, "keys", None)  # a batch of graphs names its parts so
    names = keys() if callable(keys) else getattr(batch, "__dict__", {})
    return {name: getattr(batch, name) for name in names}


def named_parts(value: Any) -> Mapping[str, Any] | None:
    """Return the entries of a mapping, or the fields of a named tuple or a dataclass; None for other values."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def lacking(place: str, found: Iterable[Any], missing: Iterable[str]) -> str:
    """Word a message about properties that a batch or a sample lacks."""
    return (
        f"missing property in {place}: found {', '.join(map(str, found)) or 'none'}, expected "
        f"{', '.join(map(repr, missing))}"
    )


def selected(batch: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return some properties of a batch by name.

    Raises:
        TrainingError: if the batch lacks one of them.
    """
    found = properties_of(batch)
    missing = [name for name in names if name not in found]
    if missing:
        raise TrainingError(
            lacking("a batch", found or [f"a {type(batch).__name__}"], missing),
            hint="list properties of the data set in forward_properties and target_properties",
        )
    return {name: found[name] for name in names}


def first_of(batch: Any) -> dict[str, Any]:
    """Return the first sample of a batch: each property without its leading dimension, if it has one."""
    return {name: _first(value) for name, value in properties_of(batch).items()}


def _first(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _first(entry) for name, entry in value.items()}
    has_samples = value.ndim > 0 if isinstance(value, Tensor) else isinstance(value, list | tuple)
    return value[0] if has_samples and len(value) else value


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
