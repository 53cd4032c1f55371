"""Files of shards: the list that a spec names, and byte ranges of them, from a disk or by range requests."""

from __future__ import annotations

import glob
import os
import re
import stat
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from braceexpand import UnbalancedBracesError, braceexpand

from noether.errors import DataError

REMOTE = ("http", "https", "s3", "gs")
"""Protocols that `fsspec` reads by range requests."""
_MOST_SHARDS = 1_000_000
_MOST_OPEN = 128
"""Files that a process keeps open: training mixes 64 blocks at a time, each of which may reach into a second shard."""
_ATTEMPTS = 3
COPY = "copy the shards to this machine, and give their path"


class Span(NamedTuple):
    """Bytes of a file from `start` to before `end`."""

    file: int
    start: int
    end: int


class Files(Protocol):
    """Shards that are read a byte range at a time.

    Attributes:
        names: Paths or URLs.
    """

    names: Sequence[str]

    def identity(self, file: int) -> tuple[int, str]:
        """Return the size of a file, and a text that another content does not have.

        Raises:
            DataError: if it cannot be opened.
        """
        ...

    def stream(self, file: int) -> BinaryIO:
        """Return a file, opened for reading."""
        ...

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of each span.

        Raises:
            DataError: if a file has changed, or cannot be read.
        """
        ...


def files_of(patterns: Sequence[str]) -> Files:
    """Return the shards that a spec names, in its order.

    Raises:
        DataError: if there are none, or they are of several places.
    """
    names = [name for pattern in patterns for name in _expanded(pattern)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"a shard is named twice: found {twice} again, expected different shards")
    protocols = {_protocol(name) for name in names}
    if len(protocols) > 1:
        raise DataError(
            f"shards of several places: found {', '.join(sorted(one or 'paths' for one in protocols))}, expected one",
            hint=COPY,
        )
    protocol = protocols.pop()
    return RemoteFiles(names, protocol) if protocol else LocalFiles(names)


def _protocol(name: str) -> str:
    protocol, mark, _ = name.partition("://")
    return protocol.lower() if mark else ""


def _expanded(pattern: str) -> list[str]:
    """Return the names that a pattern stands for: braces, and on a disk `*` or a folder as well."""
    ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern)
    if any(len(start + end) > 40 or abs(int(end) - int(start)) > _MOST_SHARDS for start, end in ranges):
        raise _too_many(pattern)
    try:
        names = list(islice(braceexpand(pattern), _MOST_SHARDS + 1))
    except (UnbalancedBracesError, ValueError, IndexError) as error:
        raise DataError(
            f"wrong name of shards {pattern!r}: {error}", hint="write train-{000000..000099}.tar"
        ) from error
    if len(names) > _MOST_SHARDS:
        raise _too_many(pattern)
    if protocol := _protocol(pattern):
        if protocol not in REMOTE:
            raise DataError(
                f"shards cannot be read from {pattern}: found {protocol}://, expected a path or one of "
                f"{', '.join(one + '://' for one in REMOTE)}",
                hint=COPY,
            )
        return names
    return [found for name in names for found in _on_disk(name)]


def _on_disk(name: str) -> list[str]:
    if os.path.isdir(name):  # noqa: PTH112  # that of pathlib raises for a name that is too long
        found = sorted(str(path) for path in Path(name).glob("*.tar"))
    elif any(mark in name for mark in "*?[") and not os.path.exists(name):  # noqa: PTH110
        found = sorted(glob.glob(name))  # noqa: PTH207  # a pattern may be absolute
    else:
        return [name]
    if not found:
        raise DataError(f"no shards: found no file for {name}, expected .tar files")
    return found


def _too_many(pattern: str) -> DataError:
    return DataError(f"too many shards: found more than {_MOST_SHARDS} in {pattern!r}, expected fewer, larger ones")


class _OpenFile:
    """A regular file as it was when it was opened."""

    def __init__(self, name: str) -> None:
        try:
            self.descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DataError(f"{name} cannot be opened: {error.strerror}") from error
        weakref.finalize(self, os.close, self.descriptor)
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            raise DataError(f"{name} is a folder, a pipe or a device, expected a file")
        self.was = self.now()

    def now(self) -> tuple[int, str]:
        """Return size and time of the last change."""
        status = os.fstat(self.descriptor)
        return status.st_size, str(status.st_mtime_ns)


class LocalFiles:
    """Shards on a disk; those that were read last stay open."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def identity(self, file: int) -> tuple[int, str]:
        """Return size and time of the last change."""
        if not os.path.lexists(self.names[file]):
            raise DataError(
                f"{self.names[file]} does not exist",
                hint="a path in a spec starts at the spec's own folder, one of the command line at the working folder",
            )
        return self._opened(file).was

    def stream(self, file: int) -> BinaryIO:
        """Return a file, opened for reading."""
        return Path(self.names[file]).open("rb")

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of each span; a file that has changed is refused."""
        found = []
        for span in spans:
            opened = self._opened(span.file)
            data = os.pread(opened.descriptor, span.end - span.start, span.start)
            if len(data) != span.end - span.start or opened.now() != opened.was:
                raise DataError(
                    f"{self.names[span.file]} has changed while it was read: found {opened.now()[0]} bytes, expected "
                    f"those of the {opened.was[0]} that it had",
                    hint="write new data to new shards, and begin a new run",
                )
            found.append(data)
        return found

    def _opened(self, file: int) -> _OpenFile:
        if file not in self._open:
            self._open[file] = _OpenFile(self.names[file])
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]


class RemoteFiles:
    """Shards that `fsspec` reads by range requests, those of a batch at the same time."""

    def __init__(self, names: Sequence[str], protocol: str) -> None:
        self.names = tuple(names)
        self._protocol = protocol
        self._filesystem: Any = None
        self._opened_by = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filesystem": None, "_opened_by": 0}

    def identity(self, file: int) -> tuple[int, str]:
        """Return size and entity tag, or time of the last change."""
        facts = self._requested(self.names[file], lambda: self._fs.info(self.names[file]))
        if not facts.get("size"):
            raise DataError(
                f"{self.names[file]} has no size, expected a file that is read by range requests", hint=COPY
            )
        stamp = next((str(facts[key]) for key in ("ETag", "Last-Modified", "LastModified") if facts.get(key)), "")
        return int(facts["size"]), stamp

    def stream(self, file: int) -> BinaryIO:
        """Return a file whose pieces of 1 MiB are requested as they are read."""
        name = self.names[file]
        opened: BinaryIO = self._requested(name, lambda: self._fs.open(name, "rb", block_size=1 << 20))
        return opened

    def read(self, spans: Sequence[Span]) -> list[bytes]:
        """Return the bytes of each span."""
        paths = [self.names[span.file] for span in spans]
        starts, ends = [span.start for span in spans], [span.end for span in spans]
        asked = ", ".join(dict.fromkeys(paths[:3]))
        found: list[bytes] = self._requested(asked, lambda: self._fs.cat_ranges(paths, starts, ends, on_error="raise"))
        for span, data in zip(spans, found, strict=True):
            if len(data) != span.end - span.start:
                raise DataError(
                    f"{self.names[span.file]}: wrong answer to a range request: found {len(data)} bytes, expected "
                    f"{span.end - span.start}: the file has changed, or the server ignores ranges",
                    hint=COPY,
                )
        return found

    @property
    def _fs(self) -> Any:
        """Return the file system as this process has opened it: its thread does not survive a fork."""
        if self._opened_by != os.getpid():
            try:
                import fsspec

                self._filesystem = fsspec.filesystem(self._protocol)
            except ImportError as error:
                raise DataError(
                    f"reading {self._protocol}:// needs another package: {error}",
                    hint=f"pip install 'noether-plugin-webdataset[remote]'; or {COPY}",
                ) from error
            self._opened_by = os.getpid()
        return self._filesystem

    def _requested(self, asked: str, request: Any) -> Any:
        """Return the answer to a request; ask again if it fails."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return request()
            except DataError:
                raise
            except Exception as error:  # each protocol has errors of its own
                if attempt == _ATTEMPTS or isinstance(error, FileNotFoundError):
                    text = str(error) or type(error).__name__
                    raise DataError(f"{asked} cannot be read: {text}", hint=f"check the URL; or {COPY}") from error
            time.sleep(2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")
