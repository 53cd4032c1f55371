"""A file that only grows by whole lines; apart because metrics and non-scalars are both kept this way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from noether.core.writers.durable import storage_error
from noether.errors import StorageError


class AppendOnlyFile:
    """Appends lines to `path` so that what is in the file is complete at every moment.

    Each line is one unbuffered write. A line that could not be written whole is cut off again, and so is one
    that a killed process left behind, when the file is opened. The file is created by the first line.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = _end_of_last_line(path)
        self._file: BinaryIO | None = None

    def append(self, line: bytes) -> None:
        """Write one line, newline included.

        Raises:
            StorageError: If the disk is full or refuses; the lines before stay as they were.
        """
        try:
            file = self._open()
            written = 0
            while written < len(line):  # a nearly full disk takes part of a line before it refuses
                written += file.write(line[written:])
        except OSError as error:
            self._cut_back()
            raise storage_error(error, self.path, needed=len(line)) from error
        self.offset += len(line)

    def truncate(self, offset: int) -> None:
        """Forget everything after the first `offset` bytes, as a resume does.

        Raises:
            StorageError: If the file is shorter than that, so it is not the file that the offset was taken from; or
                the disk refuses.
        """
        if offset > self.offset:
            raise StorageError(
                f"{self.path} holds {self.offset} bytes, but the checkpoint was saved when it held {offset}",
                hint="restore the file from a backup, or start a new run from the checkpoint's weights",
            )
        if offset < self.offset:
            try:
                os.truncate(self.path, offset)
            except OSError as error:
                raise storage_error(error, self.path) from error
            self.offset = offset

    def sync(self) -> None:
        """Wait until everything written is on the disk.

        Raises:
            StorageError: The disk refuses; what was written since the last `sync` may be lost, and asking again would
                not tell.
        """
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise storage_error(error, self.path) from error

    def lines(self) -> Iterator[bytes]:
        """Yield the complete lines that are in the file now; one that is still being written is left out."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
            if os.fstat(self._file.fileno()).st_size > self.offset:
                self._file.truncate(self.offset)
        return self._file

    def _cut_back(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # opening the file cuts a torn line off as well
                self._file.truncate(self.offset)


def _end_of_last_line(path: Path) -> int:
    """Return how many bytes of the file are complete lines; it may end in a torn one."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
