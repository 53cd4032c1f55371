"""Collators, which make one batch of samples, and batches and outputs of any type by name."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from noether.config.base import component_of
from noether.config.components import CollatorBaseConfig
from noether.config.signature import SignatureConfig
from noether.data.dataset import Batch, lost_columns
from noether.errors import DataError, TrainingError


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


Collator = Callable[[Sequence[Any]], Any]
"""Function that makes one batch of samples."""

MASK = "mask"
"""Property that `pad` adds: bool, shape (batch, points), True for points of the sample."""
BATCH_INDEX = "batch_index"
"""Property that `concat` adds: int64, shape (points,), the place in the batch of each point's sample."""

UNEQUAL_HINT = (
    'for samples of different sizes add collate = "pad" (adds a mask) or collate = "concat" (adds a batch index) '
    "to the table of the data set"
)
_SIZED_HINT = 'name the properties with one entry a point: collate = {{ kind = "{kind}", properties = ["…"] }}'


def stack(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack samples along a new leading dimension, property by property.

    Numbers and arrays become tensors, dicts are stacked entry by entry, and texts and other values become a list.

    Raises:
        DataError: if a sample is not a mapping, has other properties than the first one, or cannot be stacked.
    """
    return {name: _stacked(name, values) for name, values in _by_property(samples).items()}


def pad(samples: Sequence[Mapping[str, Any]], properties: list[str] | None = None, value: float = 0.0) -> Batch:
    """Pad samples of different sizes to the longest of their batch, and add `mask`; stack the other properties.

    Args:
        samples: The samples.
        properties: Properties with one entry a point; unset: those whose sizes differ, else the longest ones.
        value: Number to pad with.

    Raises:
        DataError: if the properties of a sample differ in their points, or `mask` is a property already.
    """
    found = _by_property(samples)
    sizes = _sizes("pad", MASK, found, properties)
    lengths = torch.tensor(next(iter(sizes.values())))
    batch = {}
    for name, values in found.items():
        batch[name] = (
            pad_sequence(_alike(name, values), batch_first=True, padding_value=value)
            if name in sizes
            else _stacked(name, values)
        )
    batch[MASK] = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    return batch


def concat(samples: Sequence[Mapping[str, Any]], properties: list[str] | None = None) -> Batch:
    """Concatenate the points of samples, and add `batch_index`; stack the other properties.

    Args:
        samples: The samples.
        properties: Properties with one entry a point; unset: those whose sizes differ, else the longest ones.

    Raises:
        DataError: if the properties of a sample differ in their points, or `batch_index` is a property already.
    """
    found = _by_property(samples)
    sizes = _sizes("concat", BATCH_INDEX, found, properties)
    batch = {}
    for name, values in found.items():
        batch[name] = torch.cat(_alike(name, values)) if name in sizes else _stacked(name, values)
    lengths = torch.tensor(next(iter(sizes.values())))
    batch[BATCH_INDEX] = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return batch


def _by_property(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each property; all samples have the properties of the first one."""
    for sample in samples:
        if not isinstance(sample, Mapping):
            raise DataError(
                f"wrong type of a sample: found {type(sample).__name__}, expected a dict from property name to tensor",
                hint="return {'x': ..., 'y': ...} from the data set's __getitem__, or name the function that makes "
                'batches of such samples: collate = "package.module.function"',
            )
        if sample.keys() != samples[0].keys():
            raise _different_properties(samples[0], sample)
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def _different_properties(first: Mapping[str, Any], other: Mapping[str, Any]) -> DataError:
    less, more = (first, other) if other.keys() - first.keys() else (other, first)
    missing = [name for name in more if name not in less]
    return DataError(f"{lacking('a sample', less, missing)} as in the others of its batch")


def _stacked(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        parts = _by_property(values)
        return {part: _stacked(f"{name}.{part}", entries) for part, entries in parts.items()}
    try:
        if not _is_numeric(values[0]) and not any(map(_is_numeric, values)):
            return values
        stacked = torch.stack([_tensor(value) for value in values])
    except (RuntimeError, TypeError, ValueError) as error:
        raise _not_stackable(name, values, error) from error
    if stacked.dtype is torch.float32 and isinstance(values[0], float | list | tuple) and stacked.numel():
        _require_kept(name, values, stacked)
    return stacked


def _require_kept(name: str, values: list[Any], rounded: Tensor) -> None:
    """Check that numbers of Python keep their variation in float32, which torch makes of them."""
    rows, lost = lost_columns(torch.as_tensor(np.asarray(values, dtype=np.float64)), rounded)
    if lost.any():
        low, high = rows[:, int(lost.nonzero()[0])].aminmax()
        raise DataError(
            f"the numbers of {name!r} are lost in float32: found {low:.17g} to {high:.17g}, expected numbers that "
            "differ by more than their rounding",
            hint=f"return '{name}' as a tensor of float64, which a normalize transform takes before it is rounded",
        )


def _is_numeric(value: Any) -> bool:
    """Return True if a value has to become a tensor: a number, an array of numbers, or a list that begins with one."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind not in "USMm"  # text and dates
    if isinstance(value, list | tuple):
        return not value or _is_numeric(value[0])
    return isinstance(value, bool | int | float | complex) or hasattr(value, "__array__")


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    is_foreign_array = hasattr(value, "__array__") and not isinstance(value, np.ndarray | np.generic)
    return torch.as_tensor(np.asarray(value) if is_foreign_array else value)


def _not_stackable(name: str, values: list[Any], error: Exception) -> DataError:
    found = ", ".join(map(str, sorted({shape for value in values if (shape := _shape(value)) is not None})))
    if "), (" in found:
        return DataError(
            f"different shapes of property {name!r} in one batch: found {found}, expected one shape", hint=UNEQUAL_HINT
        )
    types = ", ".join(sorted({type(value).__name__ for value in values}))
    return DataError(
        f"property {name!r} cannot be converted: found {types}, expected tensors, arrays or numbers: {error}"
    )


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of numbers; None for other values, and for lists whose entries differ in shape."""
    try:
        return tuple(np.shape(value)) if _is_numeric(value) else None
    except (RuntimeError, TypeError, ValueError):
        return None


def _sizes(
    kind: str, added: str, found: Mapping[str, list[Any]], properties: list[str] | None
) -> dict[str, tuple[int, ...]]:
    """Return the number of points of each sample, the same for each property that has points."""
    if added in found:
        raise DataError(
            f"the property {added!r} is in the samples already: found it beside collate = {kind!r}, which adds it",
            hint="rename the property of the data set",
        )
    sizes = {name: tuple(map(len, values)) for name, values in found.items() if all(map(_has_points, values))}
    if properties is not None:
        sizes = {name: sizes[name] for name in properties if name in sizes}
    else:
        different = {name: size for name, size in sizes.items() if len(set(size)) > 1}
        longest = max(sizes.values(), key=sum, default=())
        sizes = different or {name: size for name, size in sizes.items() if size == longest}
    if not sizes:
        raise DataError(
            f"no points to {kind}: found properties {', '.join(found)}, expected one with an entry a point",
            hint=_SIZED_HINT.format(kind=kind),
        )
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {', '.join(map(str, size))}" for name, size in sizes.items())
        raise DataError(
            f"different numbers of points of properties in the same samples: found {listed}, expected the same",
            hint=_SIZED_HINT.format(kind=kind) + ", or a function of your own",
        )
    return sizes


def _has_points(value: Any) -> bool:
    return _is_numeric(value) and len(np.shape(value)) > 0


def _alike(name: str, values: list[Any]) -> list[Tensor]:
    """Return tensors of one type that differ in their first dimension only."""
    tensors = [_tensor(value) for value in values]
    found = sorted({f"{tensor.dtype} of (points, {', '.join(map(str, tensor.shape[1:]))})" for tensor in tensors})
    if len(found) > 1:
        raise DataError(
            f"different entries of property {name!r} in one batch: found {' and '.join(found)}, expected one type and "
            "one shape of a point"
        )
    return tensors


def build_collator(config: CollatorBaseConfig | None) -> Collator:
    """Return the function of `config` with its options; `stack` without a config."""
    if not isinstance(config, CollatorBaseConfig):  # a data set may have an option of this name
        return stack
    options: dict[str, Any] = config.arguments() if isinstance(config, SignatureConfig) else {}
    target: Collator = component_of(config).target
    return partial(target, **options) if options else target
