"""Figures, tables, histograms and files as bytes or tensors, encoded when a callback adds them.

matplotlib, Pillow and pandas are looked up among the modules that the caller has imported. A picture is drawn without
a display, and without a change of matplotlib's backend.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noether.checkpoint.untrusted import read_chosen
from noether.errors import TrainingError
from noether.metrics.metrics_file import spell_number
from noether.metrics.results import Content
from noether.metrics.values import as_json

Encoded = dict[str, Any]
"""A result of a round: its `kind`, the `suffix` of its file, and its `content`: bytes as a tensor, or a table of
tensors, which may be on a device. A checkpoint can hold all of that."""

_SUFFIX = re.compile(r"[a-z0-9]{1,16}")
_MOST_BINS = 10_000
_ROUNDING = 0.002  # half a step of a byte; a picture that was interpolated leaves 0 to 1 by less
_AS_FIGURE = (
    "give a matplotlib figure, a Pillow image, or an array or tensor of shape (height, width), (height, width, 3) or "
    "(height, width, 4)"
)


def encoded(kind: str, key: str, *given: Any) -> Encoded:
    """Return a result as a round holds it.

    Args:
        kind: `figure`, `table`, `histogram` or `file`.
        key: Its whole key, for errors.
        *given: The value, and for a histogram its bins.

    Raises:
        TrainingError: if the value is of another type, or cannot be encoded.
    """
    try:
        return {"kind": kind, **_ENCODERS[kind](*given)}
    except _WrongError as wrong:
        raise TrainingError(f"{kind} {key!r} cannot be added: {wrong}", hint=wrong.hint) from wrong.__cause__
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # of a tensor without values, such as a sparse or a meta one
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise TrainingError(f"{kind} {key!r} cannot be added: {said}", hint="convert it first") from error


def size_of(kind: str, value: Any, *_: Any) -> int:
    """Return the bytes of a file that is to be added; 0 for anything else, whose size is not known yet."""
    try:
        return Path(value).stat().st_size if kind == "file" else 0
    except (OSError, TypeError, ValueError):  # `encoded` reports it
        return 0


def content_of(result: Encoded) -> Content:
    """Return what is kept of a result, whose tensors are on the host; the same bytes after a stay in a checkpoint."""
    content = result["content"]
    if isinstance(content, Tensor):
        data = content.numpy().tobytes()
    else:
        data = json.dumps(as_json(content), allow_nan=False, sort_keys=True).encode()
    return Content(result["kind"], result["suffix"], data, result.get("types", {}))


class _WrongError(Exception):
    """A value that cannot be encoded, with the remedy."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


def _in_bytes(content: bytes, suffix: str, **facts: Any) -> Encoded:
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    return {"suffix": suffix, "content": data, **facts}


def _figure(figure: Any) -> Encoded:
    buffer, hint = io.BytesIO(), 'an image of another mode: image.convert("RGB")'
    try:
        if _is_of(figure, "matplotlib.figure", "Figure"):
            hint = "the figure itself is wrong: figure.savefig(path) raises the same"
            figure.savefig(buffer, format="png")
        elif _is_of(figure, "PIL.Image", "Image"):
            figure.save(buffer, format="PNG")
        elif isinstance(figure, Tensor | np.ndarray):
            from PIL import Image

            hint = _AS_FIGURE
            Image.fromarray(_pixels(figure)).save(buffer, format="PNG")
        else:
            is_part = _is_of(getattr(figure, "figure", None), "matplotlib.figure", "Figure")
            hint = "give its whole figure: add_figure(key, axes.figure)" if is_part else _AS_FIGURE
            raise _WrongError(f"found {_type_of(figure)}, expected a picture", hint)
    except _WrongError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise _WrongError(f"drawing it raised {said}", hint) from error
    return _in_bytes(buffer.getvalue(), "png")


def _pixels(values: Tensor | np.ndarray) -> np.ndarray:
    """Return bytes of a grey, RGB or RGBA picture."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    shape = values.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))) or 0 in shape:
        is_first = len(shape) == 3 and shape[0] in (3, 4)
        hint = "move its channels to the end: .permute(1, 2, 0)" if is_first else _AS_FIGURE
        raise _WrongError(f"found the shape {tuple(shape)}, expected that of a picture", hint)
    if values.dtype.kind not in "buif":
        raise _WrongError(f"found {values.dtype}, expected numbers", _AS_FIGURE)
    is_float = values.dtype.kind in "fb"
    low, high, top = float(values.min()), float(values.max()), 1.0 if is_float else 255.0
    if not (low >= -_ROUNDING and high <= top + _ROUNDING):  # nor a NaN
        numbers = f"numbers from {low:.4g} to {high:.4g}"
        hint = "scale it first: (x - x.min()) / (x.max() - x.min()); or draw it with matplotlib, which has colour maps"
        raise _WrongError(f"found {numbers}, expected 0 to {top:.0f} for {values.dtype}", hint)
    if is_float:
        values = np.rint(np.clip(values.astype(np.float64), 0.0, 1.0) * 255.0)
    return np.ascontiguousarray(values.astype(np.uint8))


def _table(given: Any) -> Encoded:
    columns = _columns_of(given)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise _WrongError(f"found columns of different lengths ({found})", "give each column one value a row")
    types = {name: _type_of_column(name, values) for name, values in columns.items()}
    try:
        rows = zip(*(_plain(columns[name], kind) for name, kind in types.items()), strict=True)
        body = {"columns": list(columns), "data": [list(row) for row in rows]}
        content = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (OverflowError, ValueError) as error:
        raise _WrongError(f"found a value that no file can hold: {error}", "convert it first") from error
    return _in_bytes(content, "json", types=types)


_AS_TABLE = "give a dict of columns, a list of rows that are dicts, or a pandas DataFrame"


def _columns_of(given: Any) -> dict[str, list[Any]]:
    """Return the columns by name, with numbers, text, booleans, or None where a value is missing."""
    if _is_of(given, "pandas", "DataFrame"):
        missing = given.isna()
        pairs = [(given.columns[place], given.iloc[:, place].tolist()) for place in range(given.shape[1])]
        for place, (_, values) in enumerate(pairs):
            is_float = given.dtypes.iloc[place].kind == "f"
            gone = missing.iloc[:, place].tolist()
            values[:] = [None if lacks and not is_float else value for value, lacks in zip(values, gone, strict=True)]
    elif isinstance(given, Mapping):
        pairs = [(name, _listed(name, values)) for name, values in given.items()]
    elif isinstance(given, Sequence) and all(isinstance(row, Mapping) for row in given):
        names = dict.fromkeys(name for row in given for name in row)
        pairs = [(name, [_item(row.get(name)) for row in given]) for name in names]
    else:
        raise _WrongError(f"found {_type_of(given)}, expected a table", _AS_TABLE)
    columns = {str(name): values for name, values in pairs}
    if len(columns) < len(pairs):
        raise _WrongError("found two columns of one name", "rename one of them")
    return columns


def _listed(name: object, values: Any) -> list[Any]:
    if isinstance(values, Tensor | np.ndarray):
        if values.ndim != 1:
            raise _WrongError(
                f"found the shape {tuple(values.shape)} in its column {name!r}, expected one dimension", _AS_TABLE
            )
        return list(values.tolist())
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise _WrongError(f"found {_type_of(values)} as its column {name!r}, expected a list of values", _AS_TABLE)
    return [_item(value) for value in values]


def _item(value: Any) -> Any:
    """Return the number in a tensor or array of one element; other values as they are."""
    is_one = isinstance(value, Tensor | np.ndarray | np.generic) and math.prod(value.shape) == 1
    return value.item() if is_one else value


def _type_of_column(name: str, values: list[Any]) -> str:
    """Return `bool`, `int`, `float` or `text`; a column of which nothing is known has texts."""
    found = {_type_in_json(value) for value in values if value is not None}
    if "" in found or len(found - {"int", "float"}) + bool(found & {"int", "float"}) > 1:
        kinds = " and ".join(sorted({type(value).__name__ for value in values if value is not None}))
        hint = f"a column has numbers, booleans or texts: convert {name!r}, for example with str()"
        raise _WrongError(f"found {kinds} in its column {name!r}", hint)
    return "float" if "float" in found else next(iter(found), "text")


def _type_in_json(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Integral):
        return "int"
    return "text" if isinstance(value, str) else "float" if isinstance(value, Real) else ""


def _plain(values: list[Any], kind: str) -> list[Any]:
    """Return the values of a column as JSON has them; a whole number in a column of fractions stays exact."""
    if kind == "float":
        numbers = ((value, None if value is None else float(value)) for value in values)  # raises if it is too large
        return [
            value if isinstance(value, int) or number is None else spell_number(number) for value, number in numbers
        ]
    return [int(value) if kind == "int" and value is not None else value for value in values]


def _histogram(values: Any, bins: Any) -> Encoded:
    """Count on the device of the values, and wait for nothing."""
    if not isinstance(values, Tensor):
        try:
            values = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError) as error:
            hint = "give a tensor, an array, or a list of numbers"
            raise _WrongError(f"found {_type_of(values)}, expected numbers", hint) from error
    if values.is_complex() or values.is_meta or values.is_nested:
        raise _WrongError(f"found {values.dtype} without real values", "give a tensor of real numbers, with data")
    values = (values.detach().dequantize() if values.is_quantized else values.detach().to_dense()).flatten()
    values = values if values.dtype == torch.float64 else values.float()
    is_finite = values.isfinite()
    edges = _edges(values, is_finite, bins)
    is_inside = is_finite & (values >= edges[0]) & (values <= edges[-1])
    places = (torch.bucketize(values, edges, right=True) - 1).clamp(0, len(edges) - 2)
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64, device=values.device)
    counts.scatter_add_(0, places, is_inside.long())
    left_out = values.numel() - counts.sum()
    return {"suffix": "json", "content": {"edges": edges, "counts": counts, "left_out": left_out}}


def _edges(values: Tensor, is_finite: Tensor, bins: Any) -> Tensor:
    """Return the edges of all bins: as given, or equal ones between the lowest and the highest finite value."""
    hint = "give a number of bins, at least 1, or increasing edges"
    if isinstance(bins, int | np.integer) and not isinstance(bins, bool) and 1 <= bins <= _MOST_BINS:
        if not values.numel():
            return torch.linspace(0.0, 1.0, int(bins) + 1, dtype=values.dtype, device=values.device)
        low = torch.where(is_finite, values, math.inf).amin()
        high = torch.where(is_finite, values, -math.inf).amax()
        low, high = torch.where(low.isfinite(), low, 0.0), torch.where(high.isfinite(), high, 1.0)
        low, high = _widened(low, high, int(bins))
        steps = torch.arange(int(bins) + 1, device=values.device, dtype=values.dtype) / int(bins)
        edges = low * (1 - steps) + high * steps
        edges[0], edges[-1] = low, high
        return edges
    if isinstance(bins, Tensor | np.ndarray | Sequence) and not isinstance(bins, str):
        try:
            given = torch.as_tensor(bins)
            edges = torch.empty(0) if given.is_complex() else given.detach().cpu().to(values.dtype, copy=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _WrongError(f"found {_type_of(bins)} as its bins", hint) from error
        if edges.ndim == 1 and 2 <= len(edges) <= _MOST_BINS + 1 and bool((edges.diff() > 0).all()):
            return edges.to(values.device)
    raise _WrongError(f"found the bins {bins!r:.80}, expected a number of at most {_MOST_BINS}, or edges", hint)


def _widened(low: Tensor, high: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return a range that has room for the edges of so many bins; one that has it already stays as it is."""
    limits = torch.finfo(low.dtype)
    largest = torch.maximum(low.abs(), high.abs())
    is_narrow = high - low <= largest.clamp_min(limits.tiny / limits.eps) * (2 * bins * limits.eps)
    margin = largest.clamp_min(1.0) / 2
    wide = (low - margin).clamp_min(limits.min), (high + margin).clamp_max(limits.max)
    return torch.where(is_narrow, wide[0], low), torch.where(is_narrow, wide[1], high)


def _file(path: Any) -> Encoded:
    if not isinstance(path, str | Path):
        raise _WrongError(f"found {_type_of(path)}, expected the path of a file", "write it to a file first")
    try:
        content = read_chosen(Path(path))
    except (OSError, ValueError) as error:
        raise _WrongError(f"reading {str(path)!r} raised {error}", "write the file before it is added") from error
    suffix = Path(path).suffix.removeprefix(".").lower()
    return _in_bytes(content, suffix if _SUFFIX.fullmatch(suffix) else "bin")


_ENCODERS: dict[str, Callable[..., Encoded]] = {
    "figure": _figure,
    "table": _table,
    "histogram": _histogram,
    "file": _file,
}


def _is_of(value: Any, module: str, name: str) -> bool:
    """Return True if a value is an instance of a class of a library, which then has been imported."""
    found = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(value, found)


def _type_of(value: Any) -> str:
    return f"a value of type {type(value).__name__}"
