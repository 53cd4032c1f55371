"""Figures, histograms and tables of callbacks in a report: the newest of each key, as many as fit."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.untrusted import parse_json
from noether.errors import StorageError
from noether.metrics.results import RESULTS, Result, results_in

PNG = b"\x89PNG\r\n\x1a\n"
_MOST_BINS, _MOST_ROWS, _MOST_COLUMNS, _MOST_TABLES = 400, 50, 20, 40
_HISTOGRAM_BYTES = 300_000
_ERRORS = (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass
class Media:
    """Results of runs that a report shows, and those that it leaves out.

    Attributes:
        shown: Figures and histograms as the page reads them, one entry for each key of each run.
        tables: The newest table of each key: number of the run, result, column names, and the first rows.
        files: Other files, which are named only.
        left_out: Lines on what is not shown.
    """

    shown: list[dict[str, Any]] = field(default_factory=list)
    tables: list[tuple[int, Result, list[str], list[list[Any]], int]] = field(default_factory=list)
    files: list[tuple[int, Result]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def media_of(runs: Sequence[PathProvider], budget: int) -> Media:
    """Return the results of runs.

    Args:
        runs: Paths of the runs.
        budget: Bytes of all figures together, as files.
    """
    media = Media()
    by_kind: dict[str, list[tuple[int, Path, Result]]] = {}
    for number, paths in enumerate(runs):
        for result in _listed(paths.run_path, media):
            by_kind.setdefault(result.kind, []).append((number, paths.run_path, result))
    media.shown += _chosen(by_kind.get("figure", []), budget, _figure, media)
    media.shown += _chosen(by_kind.get("histogram", []), _HISTOGRAM_BYTES, _histogram, media)
    _add_tables(by_kind.get("table", []), media)
    media.files += [(number, result) for number, _, result in by_kind.get("file", [])]
    return media


def _listed(folder: Path, media: Media) -> Iterator[Result]:
    try:
        yield from results_in(folder)
    except StorageError as error:
        media.left_out.append(f"Results after a damaged line are left out: {error.message}")
    except (OSError, ValueError) as error:
        media.left_out.append(f"Results are left out: {error}")


def _chosen(found: Sequence[tuple[int, Path, Result]], budget: int, read: Any, media: Media) -> list[dict[str, Any]]:
    """Return the frames of each key of each run; the newest of all keys first, then those before, while they fit."""
    by_key: dict[tuple[int, str], list[tuple[Path, Result]]] = {}
    for number, folder, result in found:
        by_key.setdefault((number, result.key), []).append((folder, result))
    frames: dict[tuple[int, str], list[dict[str, Any]]] = {place: [] for place in by_key}
    left_out, damaged = 0, 0
    for age in range(max(map(len, by_key.values()), default=0)):
        for place, results in by_key.items():
            if age >= len(results):
                continue
            folder, result = results[-1 - age]
            if result.size > budget:
                left_out += 1
                continue
            try:
                frames[place].insert(0, {"update": result.update, **read(folder, result)})
                budget -= result.size
            except _ERRORS:
                damaged += 1
    if left_out:
        kind = found[0][2].kind
        media.left_out.append(
            f"{left_out} of {len(found)} {kind}s are left out to keep this file small; see {RESULTS}/ of the run"
        )
    if damaged:
        media.left_out.append(f"{damaged} {found[0][2].kind}s cannot be read, and are left out")
    return [
        {"run": number, "key": key, "kind": found[0][2].kind, "frames": shown}
        for (number, key), shown in frames.items()
        if shown
    ]


def _figure(folder: Path, result: Result) -> dict[str, Any]:
    data = result.read(folder)
    if not data.startswith(PNG):
        raise ValueError(f"{result.file} is not a PNG file")
    return {"png": base64.b64encode(data).decode()}


def _histogram(folder: Path, result: Result) -> dict[str, Any]:
    body = parse_json(result.read(folder))
    edges, counts = [float(edge) for edge in body["edges"]], [int(count) for count in body["counts"]]
    if len(edges) != len(counts) + 1 or not all(map(math.isfinite, edges)) or not counts:
        raise ValueError(f"{result.file} is not a histogram")
    join = -(-len(counts) // _MOST_BINS)
    return {
        "edges": [*edges[:-1:join], edges[-1]],
        "counts": [sum(counts[start : start + join]) for start in range(0, len(counts), join)],
        "left": int(body.get("left_out", 0)),
    }


def _add_tables(found: Sequence[tuple[int, Path, Result]], media: Media) -> None:
    newest = {(number, result.key): (folder, result) for number, folder, result in found}
    for (number, _), (folder, result) in list(newest.items())[:_MOST_TABLES]:
        try:
            body = parse_json(result.read(folder))
            columns = [str(name) for name in body["columns"]]
            rows = [list(row) for row in body["data"][:_MOST_ROWS]]
            media.tables.append(
                (number, result, columns[:_MOST_COLUMNS], [row[:_MOST_COLUMNS] for row in rows], len(body["data"]))
            )
            if len(columns) > _MOST_COLUMNS:
                media.left_out.append(f"{len(columns) - _MOST_COLUMNS} columns of the table {result.key} are left out")
        except _ERRORS:
            media.left_out.append(f"The table {result.key} of update {result.update} cannot be read, and is left out")
    if len(newest) > _MOST_TABLES:
        media.left_out.append(f"{len(newest) - _MOST_TABLES} tables are left out: they lie in {RESULTS}/ of the run")
