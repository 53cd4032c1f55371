"""First specs for tables and folders of images: the use of each column, with reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noether.errors import UsageError
from noether.kernel.names import TARGET, free_name
from noether.spec.scaffold import Content, check_names, train_samples

MOST_CATEGORIES = 50
"""Different texts up to which a column is taken for categories."""
_MOST_MISSING = 0.2  # share of the rows
_WIDE = 200  # spread from which the logarithm of a target is learned
_FEW = 12  # whole numbers that may be classes
_ID = re.compile(r"(^|[\W_])(id|idx|index|nr|no|number|key|uuid|row)$|^(id|unnamed)", re.IGNORECASE)
_NUMBERS, _CATEGORIES = "numbers", "categories"
_WHY_NOT = {
    "empty": "no values",
    "date": "dates are not numbers; usable as split_time",
    "dates": "dates in another form than 2026-01-31",
    "mixed": "numbers and text in one column",
    "numbers with units": "numbers with units; write plain numbers",
    "ambiguous comma": "1,234 may be 1234 or 1.234; write one of these",
    "doubled": "its name is in the header twice",
    "infinite": "infinite values",
    "other": "neither numbers nor text",
    "huge": "integers beyond 2**53 or numbers beyond 1e150, which cannot be normalised; subtract an offset or rescale",
}
"""Reasons against a column, by its type."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name.
        type: `number`, `integer`, `text`, `true/false`, or one of the types that cannot be used.
        samples: Number of rows.
        missing: Number of rows without a value.
        different: Number of different values.
        values: Range or examples in words.
        texts: Its texts in order, if they are few.
        in_a_row: True if its integers count the rows.
        spread: The 95th by the 5th percentile if all values are above 0, else 0.
    """

    name: str
    type: str
    samples: int
    missing: int = 0
    different: int = 0
    values: str = ""
    texts: Sequence[str] = ()
    in_a_row: bool = False
    spread: float = 0.0

    def __str__(self) -> str:
        return self.type

    @property
    def is_category(self) -> bool:
        """True if it holds texts."""
        return self.type in ("text", "true/false")

    @property
    def unusable(self) -> str | None:
        """Return the reason why it can be neither input nor target."""
        if not self.name.strip() or not self.name.isprintable():
            return "no printable name"
        return _WHY_NOT.get(self.type)

    @property
    def left_out(self) -> str | None:
        """Return the reason why it is not an input unless it is asked for."""
        if self.unusable:
            return self.unusable
        if self.missing > _MOST_MISSING * self.samples:
            return f"{self.missing / self.samples:.0%} missing".replace("%", " %")
        if self.different <= 1:
            return "constant"
        is_counted = self.type == "integer" and self.different == self.samples - self.missing
        if is_counted and (self.in_a_row or _ID.search(self.name)):
            return "a number for each row, like an id"
        if self.is_category and self.different > min(MOST_CATEGORIES, self.samples / 2):
            return f"{self.different} different texts, like an id"
        return None


@dataclass(frozen=True)
class FoundTable:
    """A table as it was found.

    Attributes:
        file: The file or pattern, for messages.
        path: The same as the spec names it.
        samples: Number of rows.
        columns: Its columns.
        options: Options that reading it takes: delimiter, decimal.
    """

    file: str
    path: str
    samples: int
    columns: Sequence[Column]
    options: Mapping[str, str] = field(default_factory=dict)


def content_of_table(found: FoundTable, inputs: Sequence[str] = (), targets: Sequence[str] = ()) -> Content:
    """Return the content of a spec for a table.

    Args:
        found: The table.
        inputs: Columns to predict from; by default all others that are likely to be of use.
        targets: Columns to predict; by default those whose names end in `_target`.

    Raises:
        UsageError: if there is no column of a name, no target or no input, or one cannot be used.
    """
    columns = {column.name: column for column in found.columns}
    train_samples(found.file, found.samples)
    inputs, targets = _chosen(found, columns, inputs, targets)
    used = [columns[name] for name in dict.fromkeys((*inputs, *targets))]
    trained, has_validation = train_samples(found.file, _least_complete(found, used))
    fields = _fields(targets)
    classes = _classes(columns, fields)
    numbers = [name for name in inputs if not columns[name].is_category]
    texts = [name for name in inputs if columns[name].is_category]
    groups = {key: names for key, names in ((_NUMBERS, numbers), (_CATEGORIES, texts)) if names}
    wide = [] if classes else [name for name in targets if columns[name].spread >= _WIDE]
    rows = [_row(column, inputs, targets, column.left_out, wide) for column in found.columns]
    return Content(
        dataset=_dataset(found, groups, fields, used),
        train_samples=trained,
        has_validation=has_validation,
        inputs=list(groups),
        fields=list(fields.values()),
        classes=classes,
        normalized=_normalized(groups, {} if classes else fields, wide),
        notes=[f"{found.file} holds {found.samples} rows of", *_lines(rows), *_advice(columns, targets)],
        comments=_comments(groups, used),
        rows=rows,
    )


def _chosen(
    found: FoundTable, columns: Mapping[str, Column], inputs: Sequence[str], targets: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the columns to predict from and those to predict: the named ones, else those that are of use."""
    spaced = {name.strip(): name for name in columns}  # the command line strips names
    inputs, targets = ([name if name in columns else spaced.get(name, name) for name in n] for n in (inputs, targets))
    check_names(found.file, columns, (*inputs, *targets))
    targets = targets or [name for name in columns if name.endswith(TARGET)]
    if not targets:
        raise UsageError(
            f"no column of {found.file} ends in {TARGET}: found {', '.join(columns)}",
            hint=f"name one with --targets, such as --targets {found.columns[-1].name}",
        )
    _require_usable(found.file, [columns[name] for name in targets])
    notes = {name: column.left_out for name, column in columns.items() if name not in targets}
    inputs = inputs or [name for name, why in notes.items() if why is None]
    if not inputs:
        reasons = ", ".join(f"{name} ({why})" for name, why in notes.items()) or "the target alone"
        raise UsageError(f"{found.file} has no column to predict from: found {reasons}", hint="name some with --inputs")
    _require_usable(found.file, [columns[name] for name in inputs])
    for name in targets:
        if columns[name].different == 1:
            raise UsageError(f"nothing to predict in {name!r}: found one value in every row, {columns[name].values}")
    return inputs, targets


def _least_complete(found: FoundTable, used: Sequence[Column]) -> int:
    return found.samples - min(found.samples, sum(column.missing for column in used))


def _require_usable(file: str, columns: Sequence[Column]) -> None:
    for column in columns:
        why = column.unusable
        if why is None and column.is_category and not column.texts:
            why = f"{column.different} different texts"
        if why:
            raise UsageError(
                f"the column {column.name!r} of {file} cannot be used: {why}: found {column.values or 'no value'}"
            )


def _fields(targets: Sequence[str]) -> dict[str, str]:
    """Return a name for the field of each target, which metrics and arguments can have."""
    fields: dict[str, str] = {}
    for name in targets:
        plain = re.sub(r"\W+", "_", name.removesuffix(TARGET)).strip("_") or "target"
        fields[name] = free_name(plain, fields.values())
    return fields


def _classes(columns: Mapping[str, Column], fields: Mapping[str, str]) -> dict[str, int]:
    texts = [name for name in fields if columns[name].is_category]
    if texts and len(texts) < len(fields):
        raise UsageError(
            f"different types of targets: found classes and real numbers in {', '.join(fields)}, expected one type",
            hint=f"name targets of one type with --targets, such as --targets {texts[0]}",
        )
    return {fields[name]: len(columns[name].texts) for name in texts}


def _dataset(
    found: FoundTable, groups: Mapping[str, Sequence[str]], fields: Mapping[str, str], used: Sequence[Column]
) -> dict[str, Any]:
    properties: dict[str, Any] = {key: list(names) for key, names in groups.items()}
    properties |= {f"{plain}{TARGET}": name for name, plain in fields.items()}
    categories = {column.name: list(column.texts) for column in used if column.is_category}
    return {
        "kind": "file",
        "path": found.path,
        **found.options,
        "properties": properties,
        **({"categories": categories} if categories else {}),
        **({"missing": "drop"} if any(column.missing for column in used) else {}),
    }


def _normalized(
    groups: Mapping[str, Sequence[str]], fields: Mapping[str, str], wide: Sequence[str]
) -> dict[str, list[str]]:
    names = [_NUMBERS] if _NUMBERS in groups else []
    names += [f"{plain}{TARGET}" for name, plain in fields.items() if name not in wide]
    parts = {"component": names, "log": [f"{fields[name]}{TARGET}" for name in wide]}
    return {part: names for part, names in parts.items() if names}


def _comments(groups: Mapping[str, Sequence[str]], used: Sequence[Column]) -> dict[str, str]:
    lacking = [f"{column.name} ({column.missing})" for column in used if column.missing]
    return {
        "properties": "property = columns of the file",
        "categories": "texts in a list of columns are one-hot, alone their number from 0 on"
        if _CATEGORIES in groups
        else "the place of a text is its class number",
        "missing": f"rows without a value are left out: {', '.join(lacking)}",
    }


def _row(
    column: Column, inputs: Sequence[str], targets: Sequence[str], why: str | None, wide: Sequence[str] = ()
) -> dict[str, str]:
    role = (
        "target, as logarithm"
        if column.name in wide
        else "target"
        if column.name in targets
        else "input"
        if column.name in inputs
        else "not used"
    )
    return {
        "column": column.name or "(no name)",
        "type": column.type,
        "values": column.values,
        "missing": str(column.missing),
        "used as": f"{role}: {why}" if why and role == "not used" else role,
    }


def _lines(rows: Sequence[Mapping[str, str]]) -> list[str]:
    width = max(len(row["column"]) for row in rows)
    return [
        f"  {row['column'].ljust(width)}  {row['used as']}; {row['type']}{', ' if row['values'] else ''}{row['values']}"
        + (f", {row['missing']} missing" if row["missing"] != "0" else "")
        for row in rows
    ]


def _advice(columns: Mapping[str, Column], targets: Sequence[str]) -> list[str]:
    few = [name for name in targets if columns[name].type == "integer" and columns[name].different <= _FEW]
    return [
        line
        for name in few
        for line in (
            "",
            f"{name} holds {columns[name].different} whole numbers, which are predicted as a quantity.",
            f"If they are classes: noether spec init --categories {name} …",
        )
    ]


@dataclass(frozen=True)
class FoundImages:
    """A folder of images as it was found.

    Attributes:
        file: The folder, for messages.
        path: The same as the spec names it.
        counts: Number of images by class; by `""` where a table has the targets.
        channels: `rgb` or `gray`.
        size: Height and width of all images; None if they differ.
        largest: Largest height and width.
        targets: The table of targets as the spec names it; None for classes by folder.
        columns: Columns of that table, without that of the files.
        ignored: Number of files that are not images.
    """

    file: str
    path: str
    counts: Mapping[str, int]
    channels: str
    size: tuple[int, int] | None
    largest: tuple[int, int]
    targets: str | None = None
    columns: Sequence[Column] = ()
    ignored: int = 0


_LARGEST_SIDE = 128  # pixels: a larger image is resized
_RESIZED = 64


def content_of_images(found: FoundImages, targets: Sequence[str] = ()) -> Content:
    """Return the content of a spec for a folder of images.

    Args:
        found: The folder.
        targets: Columns of the table of targets to predict; all that can be used by default.

    Raises:
        UsageError: if there is nothing to predict.
    """
    if found.targets is None and len(found.counts) < 2:
        raise UsageError(
            f"no classes in {found.file}: found {len(found.counts)} folders of images, expected at least 2",
            hint="put the images of each class in a folder, or a csv with `file` and targets beside them",
        )
    samples = sum(found.counts.values())
    trained, has_validation = train_samples(found.file, samples)
    parts = _by_class(found, targets) if found.targets is None else _by_table(found, found.targets, targets)
    is_resized = found.size is None or max(found.size) > _LARGEST_SIDE
    shape = {"channels": found.channels} | ({"size": [_RESIZED, _RESIZED]} if is_resized else {})
    ignored = [f"{found.ignored} other files are left out"] if found.ignored else []
    size = f"{found.size[0]} x {found.size[1]} pixels" if found.size else "different sizes"
    return replace(
        parts,
        dataset={"kind": "images", "path": found.path, **parts.dataset, **shape},
        train_samples=trained,
        has_validation=has_validation,
        normalized={"channel": ["image"], **parts.normalized},
        notes=[f"{found.file} holds {samples} images of {size}, {found.channels}", *ignored],
        comments={
            "properties": "property = column of the table",
            "classes": "the place of a folder is its class number",
            "size": f"height and width; the images have up to {found.largest[0]} x {found.largest[1]} pixels",
        },
    )


def _by_class(found: FoundImages, targets: Sequence[str]) -> Content:
    """Return the parts of a spec that depend on the folders of classes."""
    if targets:
        raise UsageError(f"--targets names columns of a table beside the images: found none in {found.file}")
    rows = [
        {"class": name, "number": str(number), "images": str(found.counts[name])}
        for number, name in enumerate(found.counts)
    ]
    return Content({"classes": list(found.counts)}, 0, ["image"], ["label"], {"label": len(found.counts)}, rows=rows)


def _by_table(found: FoundImages, table: str, targets: Sequence[str]) -> Content:
    """Return the parts of a spec that depend on the table of targets."""
    columns = {column.name: column for column in found.columns}
    check_names(table, columns, targets)
    targets = targets or [name for name, each in columns.items() if each.left_out is None and not each.missing]
    if not targets:
        notes = (f"{name} ({each.left_out or f'{each.missing} missing'})" for name, each in columns.items())
        raise UsageError(
            f"no column of {table} can be predicted: found {', '.join(notes) or 'the files alone'}",
            hint="the first column has the file of each image; name a target with --targets",
        )
    _require_usable(table, [columns[name] for name in targets])
    if lacking := [name for name in targets if columns[name].missing]:
        raise UsageError(
            f"missing values in {lacking[0]!r} of {table}: found {columns[lacking[0]].missing} rows without one",
            hint="fill them in, or remove these rows: images that the table does not list are not used",
        )
    fields = _fields(targets)
    classes = _classes(columns, fields)
    properties = {f"{plain}{TARGET}": name for name, plain in fields.items()}
    categories = {name: list(columns[name].texts) for name in targets if columns[name].is_category}
    return Content(
        dataset={"targets": table, "properties": properties} | ({"categories": categories} if categories else {}),
        train_samples=0,
        inputs=["image"],
        fields=list(fields.values()),
        classes=classes,
        normalized={} if classes else {"component": list(properties)},
        rows=[_row(column, (), targets, column.left_out) for column in found.columns],
    )
