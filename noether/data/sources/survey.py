"""Survey of data files: columns with types, ranges and missing values, from which a first spec is made."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from noether.data.sources.columns import TABLES, facts_of
from noether.data.sources.delimited import TableFormat, delimiter_of
from noether.data.sources.file import FileConfig, read_files
from noether.data.sources.images import (
    SUFFIXES,
    ImagesConfig,
    folders_of_classes,
    image_files,
    images_by_class,
    listed_images,
    no_images,
    read_image,
)
from noether.data.sources.mapped import StoredArray, open_arrays
from noether.data.sources.tables import (
    Table,
    counts_of,
    files_of,
    first_odd,
    is_text,
    likely,
    missing_in,
    read_table,
)
from noether.errors import UsageError
from noether.spec.scaffold import Content, Property, content_of_file
from noether.spec.scaffold_table import Column, FoundImages, FoundTable, content_of_images, content_of_table

_ON_DISK = (".npy", ".h5", ".hdf5", ".zarr")
_MOST_TEXTS = 1000  # different texts of a column that a spec lists
_LOOKED_AT = 10_000  # samples of an array on disk whose range is shown
_EXAMPLES = 3


def content_of(
    data: Path, folder: Path, inputs: Sequence[str], targets: Sequence[str], categories: Sequence[str] = ()
) -> Content:
    """Return the content of a first spec for a file, a pattern of several, or a folder of images.

    Args:
        data: The file, pattern or folder.
        folder: Folder of the spec, from which the spec names the data.
        inputs: Arrays or columns to predict from; by default all that are likely to be of use.
        targets: Those to predict.
        categories: Columns of numbers that stand for categories.

    Raises:
        DataError: if the data cannot be read.
        UsageError: if no spec can be made of them.
    """
    path = Path(os.path.relpath(data, folder)).as_posix()
    first = files_of(data)[0]
    if first.suffix.lower() in TABLES:
        return content_of_table(found_table(data, path, categories), inputs, targets)
    if categories:
        raise UsageError(f"--categories names columns of a table: found {data}, expected {', '.join(TABLES)}")
    if first.suffix.lower() in _ON_DISK or (data.is_dir() and any(data.glob("*.npy"))):
        samples, properties = _on_disk(data, targets)
        return content_of_file(str(data), path, samples, properties, inputs, targets, kind="disk")
    if data.is_dir():
        if inputs:
            raise UsageError(f"--inputs names columns or arrays: found {data}, a folder of images, which are the input")
        return content_of_images(found_images(data, path, folder), targets)
    named = [*inputs, *targets] if inputs and targets else None  # an archive may hold more than samples
    arrays, _ = read_files(data, named, FileConfig(kind="file", path=str(data)))
    lengths = [len(arrays[name]) for name in targets if name in arrays and arrays[name].ndim]
    of_samples = {name: values for name, values in arrays.items() if values.ndim and len(values) in lengths[:1]}
    samples, properties = facts_of(data, of_samples if len(of_samples) > len(targets) else arrays)
    return content_of_file(str(data), path, samples, properties, inputs, targets)


# Tables


def found_table(data: Path, path: str, categories: Collection[str] = ()) -> FoundTable:
    """Return the columns of a table, or of several, with their types and ranges.

    Args:
        data: The file or pattern.
        path: The same as a spec names it.
        categories: Columns that are read as texts whatever they hold.
    """
    first = files_of(data)[0]
    delimiter, form = None, TableFormat()
    if first.suffix.lower() != ".parquet":
        delimiter = delimiter_of(first)
        form = TableFormat(delimiter)
    doubled: list[str] = []

    def once(present: list[str]) -> list[str]:
        doubled[:] = dict.fromkeys(name for name in present if present.count(name) > 1)
        return [name for name in present if name not in doubled]

    table = read_table(data, once, form)
    if any(_type(table, name) == "decimal comma" for name in table.columns.column_names):
        form = TableFormat(delimiter, ",")
        table = read_table(data, once, form)
    flags = [name for name in table.columns.column_names if _type(table, name) == "true/false"]
    as_text = set(flags).union(categories).intersection(table.columns.column_names)
    if as_text:
        table = read_table(data, once, form, as_text)
    columns = [_column(table, name, name in as_text, name in flags) for name in table.columns.column_names]
    columns += [Column(name, "doubled", len(table.rows)) for name in doubled]
    usual = "\t" if first.suffix.lower() == ".tsv" else ","
    options = {"delimiter": delimiter} if delimiter not in (None, usual) else {}
    options |= {"decimal": ","} if form.decimal == "," else {}
    return FoundTable(str(data), path, len(table.rows), columns, options)


def _type(table: Table, name: str) -> str:
    from pyarrow import types

    column = table.columns[name]
    kinds = (
        (types.is_null, "empty"),
        (types.is_boolean, "true/false"),
        (types.is_integer, "integer"),
        (types.is_floating, "number"),
        (types.is_temporal, "date"),
    )
    for fits, kind in kinds:
        if fits(column.type):
            return kind
    if not is_text(column):
        return "other"
    counts = counts_of(column)
    return likely(counts) if counts else "empty"


def _column(table: Table, name: str, as_text: bool, is_flag: bool) -> Column:
    """Return the facts of a column."""
    import pyarrow

    kind = "true/false" if is_flag else "text" if as_text else _type(table, name)
    absent = missing_in(table, name, TableFormat(missing="drop"))
    missing, samples = int(absent.sum()), len(table.rows)
    present = table.columns[name].filter(pyarrow.array(~absent)) if samples else table.columns[name]
    if is_text(table.columns[name]):
        texts = sorted(counts_of(present))
        shown = ", ".join(texts[:_EXAMPLES]) + (" …" if len(texts) > _EXAMPLES else "")
        shown = first_odd(table, name) if kind == "mixed" else shown
        listed = texts if len(texts) <= _MOST_TEXTS else []
        return Column(name, kind, samples, missing, len(texts), shown, listed)
    if kind in ("empty", "other") or not len(present):
        return Column(name, kind, samples, missing)
    if kind == "date":
        ends = pyarrow.compute.min_max(present)
        shown = f"{ends['min'].as_py()} … {ends['max'].as_py()}"
        return Column(name, kind, samples, missing, len(present.unique()), shown)
    values = present.to_numpy()
    low, high, different = float(values.min()), float(values.max()), len(present.unique())
    if not np.isfinite([low, high]).all():
        return Column(name, "infinite", samples, missing, different, f"{low:g} … {high:g}")
    if max(-low, high) > (2**53 if kind == "integer" else 1e150):
        return Column(name, "huge", samples, missing, different, f"{low:.6g} … {high:.6g}")
    in_a_row = kind == "integer" and different == len(values) == high - low + 1
    small, large = np.quantile(values.astype(float), [0.05, 0.95])
    spread = float(large / small) if low > 0 else 0.0
    shown = f"{low:.6g} … {high:.6g}"
    return Column(name, kind, samples, missing, different, shown, in_a_row=in_a_row, spread=spread)


# Arrays on disk


def _on_disk(path: Path, targets: Sequence[str]) -> tuple[int, dict[str, Property]]:
    """Return the number of samples of a file, and its arrays; reads the first samples, and all of whole numbers."""
    arrays = open_arrays(path, None)
    lengths = {name: array.shape[0] if array.shape else 0 for name, array in arrays.items()}
    wanted = [name for name in targets if name in arrays] or [name for name in arrays if name.endswith("_target")]
    samples = lengths[wanted[0]] if wanted else max(lengths.values(), default=0)
    properties: dict[str, Property] = {}
    for name, array in arrays.items():
        if array.shape and lengths[name] == samples:
            properties |= facts_of(path, {name: _looked_at(array)})[1]
    return samples, properties


def _looked_at(array: StoredArray) -> torch.Tensor:
    is_label = len(array.shape) == 1 and not array.dtype.is_floating_point
    count = array.shape[0] if is_label else min(array.shape[0], _LOOKED_AT)
    return array.take(np.arange(count))


# Images


def found_images(root: Path, path: str, folder: Path) -> FoundImages:
    """Return the images of a folder, by class or with the table of their targets.

    Args:
        root: The folder of images.
        path: The same as a spec names it.
        folder: Folder of the spec.

    Raises:
        DataError: if there are no images, or one of them cannot be read.
        UsageError: if there are several tables beside them.
    """
    files = image_files(root)
    if not files:
        raise no_images(root)
    tables = sorted(one for one in root.iterdir() if one.suffix.lower() in TABLES and not one.name.startswith("."))
    if len(tables) > 1:
        raise UsageError(
            f"several tables beside the images: found {', '.join(one.name for one in tables)}, expected one",
            hint="keep the table of targets in the folder, and move the others",
        )
    heights, widths, gray = set(), set(), True
    for file in files:
        shape = read_image(file, "rgb").shape
        heights.add(shape[1])
        widths.add(shape[2])
        gray = gray and is_gray(file)
    classes = folders_of_classes(root, files)
    counts = dict.fromkeys(classes, 0)
    columns, targets = [], None
    if tables:
        listed_images(root, tables[0])
        found = found_table(tables[0], "")
        columns, counts = list(found.columns)[1:], {"": found.samples}
        targets = Path(os.path.relpath(tables[0], folder)).as_posix()
    elif len(classes) > 1:
        images_by_class(root, ImagesConfig(kind="images", path=str(root), classes=classes))
        for file in files:
            if file.parent != root:
                counts[file.relative_to(root).parts[0]] += 1
    return FoundImages(
        file=str(root),
        path=path,
        counts=counts,
        channels="gray" if gray else "rgb",
        size=(max(heights), max(widths)) if len(heights) == len(widths) == 1 else None,
        largest=(max(heights), max(widths)),
        targets=targets,
        columns=columns,
        ignored=sum(_is_other(file) for file in root.rglob("*")) - len(tables),
    )


def is_gray(path: Path) -> bool:
    """Return True if an image has one channel."""
    from PIL import Image

    with Image.open(path) as image:
        return image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


def _is_other(path: Path) -> bool:
    return path.is_file() and not path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
