"""`results.jsonl`: the figures, tables, histograms and files of a run, one line for each, which lie in `results/`."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from noether.checkpoint.durable import make_folders, remove, replace_file, size_text, storage_error
from noether.checkpoint.manifest import FileRecord
from noether.checkpoint.untrusted import is_folder, json_excess, names_inside, parse_json, read_untrusted
from noether.errors import StorageError
from noether.kernel.names import has_control
from noether.metrics.metrics_file import AppendOnlyFile, MetricRecord, lines_of

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_LOG = logging.getLogger("noether.metrics")
RESULTS, RESULTS_INDEX = "results", "results.jsonl"
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.]{0,63}", re.ASCII)
_KEPT = re.compile(r"U[0-9]{12,20}(-[0-9]{1,9})?\.[a-z0-9]{1,16}", re.ASCII)
_TEMPORARY = re.compile(r"\.U[0-9]+.*\.[0-9]+\.tmp", re.ASCII)
_SUBFOLDER = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,127}", re.ASCII)
_LAST_TIME = 1 << 36  # seconds since 1970, in the year 4147
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TYPES = {"int": ("int64", "Int64"), "float": ("float64", "float64"), "bool": ("bool", "boolean")}
"""pandas' types of a table's columns, complete and with missing values; texts are plain objects."""


class Limits(NamedTuple):
    """Most results that a run keeps, in number and bytes together."""

    number: int = 2000
    size: int = 1_000_000_000


class Content(NamedTuple):
    """Content of a result: its kind, the suffix and the bytes of its file, and the types of a table's columns."""

    kind: str
    suffix: str
    data: bytes
    types: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Result:
    """A figure, table, histogram or file of a run.

    Attributes:
        update: Optimizer updates completed.
        epoch: Epochs completed.
        sample: Samples seen.
        time: Seconds since 1970 (UTC) at which its line was written.
        key: Its key, as that of a metric.
        kind: `figure`, `table`, `histogram` or `file`.
        file: Its file, relative to the folder of `results.jsonl`: `results/loss_curve/U000000000120.png`.
        size: Bytes of the file.
        sha256: Hash of the file.
        types: Type of each column of a table: `int`, `float`, `bool` or `text`.
    """

    update: int
    epoch: int
    sample: int
    time: float
    key: str
    kind: str
    file: str
    size: int
    sha256: str
    types: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return its line, newline included."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Result:
        """Read a line back.

        Raises:
            ValueError: if `encode` did not write it, or its file would lie elsewhere.
        """
        try:
            found = cls(**parse_json(line))
            counters = (found.update, found.epoch, found.sample, found.size)
            texts = (found.key, found.kind, found.file, found.sha256, *found.types, *found.types.values())
            if any(type(number) is not int or number < 0 for number in counters):
                raise ValueError("a counter is not a number")
            if not all(isinstance(text, str) for text in texts) or has_control(found.key + found.kind):
                raise ValueError("a text is none, or has control characters")
            if not _is_name(found.file) or not _SHA256.fullmatch(found.sha256) or not 0 <= found.time < _LAST_TIME:
                raise ValueError("it names no file of a result, or no time")
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"not a line of {RESULTS_INDEX}: {line[:80]!r}") from error
        return found

    def read(self, folder: Path) -> bytes:
        """Return the content of its file.

        Args:
            folder: Folder of `results.jsonl`.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it is not what was written, or a part of its path is a link.
        """
        data = read_untrusted(folder, self.file, size=self.size)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"{self.file} is not what was written")
        return data

    def table(self, folder: Path) -> DataFrame:
        """Return a table with its columns in their types; of a histogram the edges `low` and `high`, and the `count`.

        Args:
            folder: Folder of `results.jsonl`.

        Raises:
            StorageError: if its file is damaged, or it is no table.
        """
        from pandas import DataFrame

        try:
            body = parse_json(self.read(folder))
            if self.kind == "histogram":
                edges = [float(edge) for edge in body["edges"]]
                return DataFrame({"low": edges[:-1], "high": edges[1:], "count": body["counts"]})
            columns = list(zip(*body["data"], strict=True)) or [()] * len(body["columns"])
            pairs = zip(body["columns"], columns, strict=True)
            return DataFrame({name: _column(values, self.types[name]) for name, values in pairs})
        except (OSError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise StorageError(f"{folder / self.file} cannot be read as a {self.kind}: {error}") from error


def _column(values: tuple[Any, ...], kind: str) -> Series[Any]:
    from pandas import Series

    complete, missing = _TYPES.get(kind, ("object", "object"))
    if kind == "float":  # also those that JSON has as a text, "NaN"
        return Series([None if value is None else float(value) for value in values], dtype="float64")
    if kind == "int" and not all(value is None or -(1 << 63) <= value < 1 << 63 for value in values):
        return Series(list(values), dtype="object")  # exact, as a hash of 64 bits without a sign
    return Series(list(values), dtype=missing if None in values else complete)


def results_in(folder: Path) -> Iterator[Result]:
    """Yield the results that `results.jsonl` in a run folder, or in another folder, lists.

    Raises:
        StorageError: if a line is damaged.
    """
    path = folder / RESULTS_INDEX
    for number, line in enumerate(lines_of(folder, path), start=1):
        try:
            yield Result.decode(line)
        except ValueError as error:
            raise StorageError(f"{path}:{number}: {error}") from error


def _is_name(name: str) -> bool:
    """Return True for a file that `folder_of` and `ResultsFile` may have named; it lies in `results/`."""
    parts = name.split("/")
    is_one = len(parts) == 3 and parts[0] == RESULTS
    return is_one and bool(_SUBFOLDER.fullmatch(parts[1])) and bool(_KEPT.fullmatch(parts[2]))


def folder_of(key: str) -> str:
    """Return the folder of a key below `results/`: the key, or what a file name can hold of it and its hash.

    Two keys never share one, also on a disk that does not tell upper from lower case.
    """
    if _PLAIN.fullmatch(key):
        return key
    shown = re.sub(r"[^a-z0-9_.]+", "-", key.lower(), flags=re.ASCII).strip("-.")[:48] or "key"
    return f"{shown}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


class ResultsFile(AppendOnlyFile):
    """`results.jsonl` and the files that it lists; a file that no line lists is removed when the run continues.

    Args:
        folder: Its folder, which holds `results/` as well.
        run: Run folder that it lies in.
        limits: Most results that are kept. One more is left out, and the log says so once.
    """

    def __init__(self, folder: Path, run: Path | None = None, limits: Limits | None = None) -> None:
        super().__init__(folder / RESULTS_INDEX, run)
        self._limits = limits or Limits()
        self._listed: dict[str, int] | None = None  # size by file; None until it is needed
        self._reasons: set[str] = set()

    def keep(self, at: MetricRecord, results: Mapping[str, Content]) -> None:
        """Write the files of results, and then their lines, in the order of their keys.

        Args:
            at: Their place in the training.
            results: The results by key.

        Raises:
            StorageError: if the disk refuses; no line is written.
        """
        lines = []
        for key, (kind, suffix, data, types) in sorted(results.items()):
            if self.takes(key, len(data), json_excess(data) if kind in ("table", "histogram") else None):
                name = self._name(key, at.update, suffix)
                self._write_file(self.path.parent / name, data)
                self._files[name] = len(data)
                place, sha256 = (at.update, at.epoch, at.sample, round(at.time, 3)), hashlib.sha256(data).hexdigest()
                lines.append(Result(*place, key, kind, name, len(data), sha256, dict(sorted(types.items()))).encode())
        if lines:
            self.write(b"".join(lines))

    def takes(self, key: str, size: int, excess: str | None = None) -> bool:
        """Return True if a result of this size is kept; else log, once for each reason, that it is left out."""
        held = self._files
        reason = "size" if excess else "max_results" if len(held) >= self._limits.number else ""
        if not reason and sum(held.values()) + size > self._limits.size:
            reason = "max_results_mb"
            excess = f"it has {size_text(size)}, and the others {size_text(sum(held.values()))}"
        if reason and reason not in self._reasons:
            self._reasons.add(reason)
            found = excess or f"there are {len(held)}"
            remedy = "" if reason == "size" else f"; raise trainer.{reason}, or add them less often"
            _LOG.warning("result %r is not kept: %s%s. Further ones are left out without a line", key, found, remedy)
        return not reason

    def truncate(self, offset: int) -> None:
        """Cut lines off, see `AppendOnlyFile.truncate`; their files are replaced or removed later."""
        self._listed = None
        super().truncate(offset)

    def restore(self, offset: int, written: FileRecord | None = None, update: int | None = None) -> bool:
        """Restore the lines, see `AppendOnlyFile.restore`, and remove the files that none of them lists."""
        self._listed = None
        is_sound = super().restore(offset, written, update)
        self._sweep()
        return is_sound

    def update_of(self, line: bytes) -> int:
        """Return the update of a line.

        Raises:
            ValueError: if it is damaged.
        """
        return Result.decode(line).update

    @property
    def _files(self) -> dict[str, int]:
        if self._listed is None:
            found = (Result.decode(line) for line in self.lines())
            self._listed = {result.file: result.size for result in found}
        return self._listed

    def _name(self, key: str, update: int, suffix: str) -> str:
        """Return a name that is free: `before_training` and the first update may add to one key at one update."""
        start = f"{RESULTS}/{folder_of(key)}/U{update:012d}"
        name, number = f"{start}.{suffix}", 1
        while name in self._files:
            number += 1
            name = f"{start}-{number}.{suffix}"
        return name

    def _write_file(self, path: Path, content: bytes) -> None:
        self.require_own()
        try:
            make_folders(path.parent, inside=self.run)
        except OSError as error:
            raise storage_error(error, path.parent) from error
        replace_file(path, content, inside=self.run)

    def _sweep(self) -> None:
        """Remove files of results that no line lists; other files, and links, are left alone."""
        top, prefix = self.path.parent / RESULTS, self.path.parent
        if not is_folder(top):
            return
        for folder in (top / name for name in names_inside(self.run, top) if _SUBFOLDER.fullmatch(name)):
            for path in (folder / name for name in (names_inside(self.run, folder) if is_folder(folder) else ())):
                is_ours = _KEPT.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name)
                if is_ours and path.relative_to(prefix).as_posix() not in self._files and not path.is_dir():
                    self.require_own()
                    try:
                        remove(path)
                    except OSError as error:
                        _LOG.warning("cannot remove %s, which is not listed: %s", path, error.strerror or error)
