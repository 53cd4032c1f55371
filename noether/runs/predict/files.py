"""Data files of a run's user: raw samples from a file like those of training, and predictions to a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from noether.checkpoint.durable import storage_error
from noether.config.components import DatasetBaseConfig
from noether.core.callbacks.display import PassBar
from noether.data.dataset import InMemoryDataset
from noether.data.sources.columns import TABLES, ArraysConfig
from noether.data.sources.file import DiskConfig, DiskDataset, FileConfig, FileDataset, column_names
from noether.data.sources.images import ImagesConfig, labelled_images, raw_images
from noether.data.sources.mapped import open_arrays
from noether.errors import DataError, UsageError
from noether.kernel.names import TARGET
from noether.runs.predict.inputs import RawProperties, RawProperty
from noether.runs.predict.predictor import Predictor

Columns = Mapping[str, str | list[str]]
_ON_DISK = (".npy", ".h5", ".hdf5", ".zarr")
FILE_COLUMN = "file"
"""Column with the names of the images that were predicted."""


@dataclass(frozen=True, slots=True)
class FileSamples:
    """Raw samples of a file.

    Attributes:
        dataset: The samples, as training would read them.
        ignored: Arrays of the file that are not among their properties.
        names: Names of the samples, if they are files.
    """

    dataset: InMemoryDataset
    ignored: list[str]
    names: list[str] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The properties, of shape (samples, ...), with all digits of the file if the data set has kept them."""
        return self.dataset.in_full().properties


def columns_of(
    path: Path, config: DatasetBaseConfig, present: Collection[str], properties: RawProperties
) -> dict[str, Any]:
    """Return the arrays of each property: those that the spec names, else one of its name, or of its field.

    In a table, a property of several numbers is in the columns `name[0]`, `name[1]`, … unless the spec names them.

    Args:
        path: The file.
        config: The data set that the file is like.
        present: Arrays of the file.
        properties: Properties of a sample before its transforms.
    """
    named: Columns = (config.properties if isinstance(config, ArraysConfig) else None) or {}
    columns: dict[str, Any] = {}
    for name, raw in properties.items():
        field = name.removesuffix(TARGET)
        names = [named.get(name, name), name, *([field] if field not in properties else [])]
        given = next((arrays for arrays in names if _is_in(arrays, raw, present)), names[0])
        if isinstance(given, str) and len(raw.shape) == 1 and path.suffix.lower() in TABLES:
            given = [entry for entry, _ in entries(given, raw.shape)]
        columns[name] = given
    return columns


def _is_in(arrays: str | list[str], raw: RawProperty, present: Collection[str]) -> bool:
    """Return True if a file has the first of these arrays, or its columns."""
    first = listed(arrays)[0]
    return first in present or next(iter(entries(first, raw.shape)), (first, 0))[0] in present


def listed(arrays: str | list[str]) -> list[str]:
    """Return the arrays of a property as a list."""
    return [arrays] if isinstance(arrays, str) else arrays


def entries(name: str, shape: tuple[int, ...]) -> Iterable[tuple[str, int]]:
    """Yield the column of each entry of an array, `velocity[0]`, and its place; one number has the plain name."""
    if prod(shape) == 1:
        yield name, 0
        return
    for place, index in enumerate(np.ndindex(*shape)):
        yield f"{name}[{','.join(map(str, index))}]", place


def read_samples(
    path: Path,
    config: DatasetBaseConfig,
    properties: RawProperties,
    needed: Collection[str],
    *,
    others: bool = False,
) -> FileSamples:
    """Read properties of a file that is like a data set of the run.

    Args:
        path: The file.
        config: The data set.
        properties: Properties of a sample before its transforms.
        needed: Names of those that the file must have.
        others: Read the others as well if the file has them.

    Raises:
        DataError: if the file cannot be read, or lacks some of the needed ones; names all of these.
    """
    if isinstance(config, ImagesConfig):
        if not others and set(needed) != {"image"}:
            raise DataError(f"a folder of images has `image` only: found {', '.join(needed)} among the inputs")
        dataset, names = (
            labelled_images(path, config) if others else raw_images(path, config, properties["image"].shape)
        )
        return FileSamples(dataset, [], names)
    like = FileConfig(kind="file", path=str(path))
    if isinstance(config, FileConfig) and path.suffix.lower() in TABLES:
        form = {name: getattr(config, name) for name in ("categories", "delimiter", "decimal")}
        like = like.model_copy(update=form)
    on_disk = path.suffix.lower() in _ON_DISK or path.is_dir()
    present = list(open_arrays(path, None)) if on_disk else column_names(like)
    columns = columns_of(path, config, present, properties)
    wanted = {name for name in needed if name in columns}
    if missing := {array for name in wanted for array in listed(columns[name])}.difference(present):
        raise DataError(
            f"{path}: missing columns: found {', '.join(present) or 'none'}, expected {', '.join(sorted(missing))}",
            hint=f"the file needs the columns of {', '.join(sorted(wanted))} in the training data",
        )
    if others:
        wanted |= {name for name, arrays in columns.items() if set(listed(arrays)) <= set(present)}
    read = {name: columns[name] for name in properties if name in wanted}
    if on_disk:
        stored = DiskDataset(DiskConfig(kind="disk", path=str(path), properties=read))
        dataset = stored.held_in_memory(stored.read(torch.arange(len(stored))))
    else:
        dataset = FileDataset(like.model_copy(update={"properties": read}))
    _require_dimensions(path, dataset, properties)
    used = {array for arrays in read.values() for array in listed(arrays)}
    return FileSamples(dataset, [name for name in present if name not in used])


def _require_dimensions(path: Path, dataset: InMemoryDataset, properties: RawProperties) -> None:
    for name, tensor in dataset.properties.items():
        if tensor.ndim != len(properties[name].shape) + 1:
            shape = ", ".join(map(str, ("samples", *properties[name].shape)))
            raise DataError(f"{path}: wrong shape of {name!r}: found {tuple(tensor.shape)}, expected ({shape})")


# Writing


def write_predictions(
    path: Path,
    fields: Mapping[str, Tensor],
    columns: Mapping[str, list[str]],
    texts: Mapping[str, list[str]] | None = None,
) -> None:
    """Write predictions to a file that does not exist; a file that could not be written whole is removed.

    Args:
        path: The file; its suffix names the format.
        fields: Predictions by field, of shape (samples, ...).
        columns: Columns of the fields in a table.
        texts: Further columns of a table, before the fields: names of samples and of predicted classes.

    Raises:
        StorageError: if the disk refuses.
        DataError: if the format cannot hold a prediction.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[path.suffix.lower()](temporary, fields, columns, texts or {})
        temporary.replace(path)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_writable(path: Path) -> None:
    """Check the name of a file for predictions, before they are computed.

    Raises:
        UsageError: if its format is unknown, it exists, or its folder is a file.
    """
    if path.suffix.lower() not in WRITERS:
        raise UsageError(
            f"unknown format: found {path.suffix or 'no suffix'!r} in --out, expected one of {', '.join(WRITERS)}"
        )
    if path.exists():
        raise UsageError(f"{path} exists already", hint="choose another --out, or remove it first")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"{parent} is a file, expected a folder for {path.name}", hint="choose another --out")


def target_columns(
    config: DatasetBaseConfig, targets: Mapping[str, str], fields: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """Return the columns of each field in a table: those of its target in the data set, else named after the field.

    Args:
        config: The data set that the samples are like.
        targets: Target properties by field.
        fields: Predictions by field.
    """
    columns: dict[str, list[str]] = {}
    for field, values in fields.items():
        shape = tuple(values.shape[1:])
        named: Columns = (config.properties if isinstance(config, ArraysConfig) else None) or {}
        target = targets.get(field)
        given = named.get(target, target) if target and isinstance(config, ArraysConfig) else field
        base, parts = (given, [given]) if isinstance(given, str) else (field, given or [])
        fits = len(parts) == prod(shape)
        columns[field] = list(parts) if fits else [name for name, _ in entries(str(base), shape)]
    return columns


def _write_npz(path: Path, fields: Mapping[str, Tensor], *_: Mapping[str, list[str]]) -> None:
    with ZipFile(path, "w") as archive:  # np.savez has arguments of its own, whose names no field could have
        for name, values in fields.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values.numpy(), allow_pickle=False)


def _write_safetensors(path: Path, fields: Mapping[str, Tensor], *_: Mapping[str, list[str]]) -> None:
    from safetensors.torch import save_file

    save_file({name: values.contiguous() for name, values in fields.items()}, path)


def _write_parquet(path: Path, *parts: Any) -> None:
    from pyarrow import parquet

    parquet.write_table(_table(*parts), path)


def _write_csv(path: Path, *parts: Any) -> None:
    from pyarrow import csv

    delimiter = "\t" if path.name.endswith(".tsv.tmp") or ".tsv." in path.name else ","
    csv.write_csv(_table(*parts), path, csv.WriteOptions(quoting_style="needed", delimiter=delimiter))


def _table(
    fields: Mapping[str, Tensor], columns: Mapping[str, list[str]], texts: Mapping[str, list[str]] | None = None
) -> Any:
    """Return an Arrow table with the texts, and a column for each entry of each field."""
    import pyarrow

    table: dict[str, Any] = dict(texts or {})
    for field, values in fields.items():
        if values.is_complex():
            raise DataError(f"{field!r} is complex, which a table cannot hold", hint="write --out to an .npz file")
        flat = values.reshape(len(values), -1)
        for place, name in enumerate(columns[field]):
            table[name if name not in table else f"{field}.{name}"] = flat[:, place].numpy()
    return pyarrow.table(table)


WRITERS: dict[str, Callable[..., None]] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".tsv": _write_csv,
}


# Both


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions that were written to a file.

    Attributes:
        checkpoint: Position of the checkpoint, `E1_U50_S3200`, with `.ema=0.999` for averaged weights.
        samples: Number of samples.
        shapes: Shape of each field, for one sample.
        columns: Columns of each field; empty for a format without columns.
        inputs: Properties that were read.
        ignored: Arrays of the data file that were not read.
        not_finite: Number of samples whose prediction is not finite, for fields that have some.
    """

    checkpoint: str
    samples: int
    shapes: Mapping[str, tuple[int, ...]]
    columns: Mapping[str, list[str]]
    inputs: Sequence[str]
    ignored: Sequence[str]
    not_finite: Mapping[str, int]


def predict_file(predictor: Predictor, data: Path, out: Path, *, batch_size: int | None = None) -> Predicted:
    """Predict the fields for all samples of a file, and write them to another one, in the same order.

    Args:
        predictor: The trained model.
        data: The file with the inputs, in the units of the training data.
        out: The file to write.
        batch_size: Samples in one forward pass; None for that of training.

    Raises:
        UsageError: if `out` exists, or has an unknown suffix.
        DataError: if the data file cannot be read, or lacks columns.
        StorageError: if the disk refuses.
    """
    require_writable(out)
    inputs = predictor.inputs
    samples = read_samples(data, inputs.config, inputs.properties, predictor.needed)
    size = len(next(iter(samples.tensors.values())))
    bar = PassBar("predicting", ceil(size / (batch_size or predictor.batch_size)))
    with closing(bar):
        fields = predictor(samples.tensors, batch_size=batch_size, after_batch=bar.advance)
    is_table = out.suffix.lower() in TABLES
    columns = target_columns(inputs.config, predictor.targets, fields)
    texts = {FILE_COLUMN: samples.names} if samples.names else {}
    if is_table:
        fields, columns, texts = _with_classes(predictor, fields, columns, texts)
    write_predictions(out, fields, columns, texts)
    return Predicted(
        checkpoint=predictor.position,
        samples=size,
        shapes={field: tuple(values.shape[1:]) for field, values in fields.items()},
        columns=_listed_columns(columns, texts) if is_table else {},
        inputs=list(samples.tensors),
        ignored=samples.ignored,
        not_finite=_not_finite(fields),
    )


def _with_classes(
    predictor: Predictor, fields: dict[str, Tensor], columns: dict[str, list[str]], texts: dict[str, list[str]]
) -> tuple[dict[str, Tensor], dict[str, list[str]], dict[str, list[str]]]:
    """Return fields, columns and texts with the name of the class, and the probability of each, for classifications."""
    config = predictor.inputs.config
    for field, values in fields.items():
        target = predictor.targets.get(field, field)
        names = config.class_names(target)
        if names is None or values.ndim != 2 or values.shape[1] != len(names):
            continue
        given = (getattr(config, "properties", None) or {}).get(target, field)
        column = given if isinstance(given, str) else field
        texts = {**texts, column: [names[place] for place in values.argmax(1).tolist()]}
        fields = {**fields, field: values.softmax(1)} if predictor.is_classifier else fields
        columns = {**columns, field: [f"{column}[{name}]" for name in names]}
    return fields, columns, texts


def _listed_columns(columns: Mapping[str, list[str]], texts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the columns of a table by field, those of texts first."""
    alone = {name: [name] for name in texts if name not in columns}
    return alone | {field: [field, *names] if field in texts else list(names) for field, names in columns.items()}


def _not_finite(fields: Mapping[str, Tensor]) -> dict[str, int]:
    wrong = {field: ~torch.isfinite(values).reshape(len(values), -1) for field, values in fields.items()}
    counts = {field: int(places.any(1).sum()) for field, places in wrong.items()}
    return {field: count for field, count in counts.items() if count}
