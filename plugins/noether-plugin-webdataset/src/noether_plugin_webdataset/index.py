"""Index of a shard: the place of each member, read from the headers of the tar file once, kept as safetensors."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import save
from webdataset.tariterators import base_plus_ext

from noether.errors import DataError
from noether_plugin_webdataset.files import Files

SUFFIX = ".index.safetensors"
_VERSION = 1
_MOST_SUFFIXES = 64
_MOST_HEADER = 1 << 20
"""Bytes that are read at once: a header of a tar file has 512, those of a long name a few more."""
_MOST_INDEX = 16 << 20
"""Bytes before the places of an index."""
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OF_WEBDATASET = re.compile(r"__[^/]*__($|/)")
_TYPES = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}

Places = np.ndarray[Any, np.dtype[np.int64]]
"""Offset and size of members, shape (samples, suffixes, 2); -1 if a sample lacks one."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Index of one shard in a file, which is mapped when samples are read.

    Attributes:
        path: The file.
        samples: Samples of the shard.
        suffixes: Suffixes of members, in the order of `Places`.
        lacking: Samples that lack a member of a suffix, by suffix; without zeros.
        start: Byte of the file at which the places begin.
        size: Bytes of the shard.
    """

    path: Path
    samples: int
    suffixes: tuple[str, ...]
    lacking: dict[str, int]
    start: int
    size: int

    def places(self) -> Places:
        """Return the places, mapped for reading.

        Raises:
            DataError: if the file is gone.
        """
        shape = (self.samples, len(self.suffixes), 2)
        if not self.samples:
            return np.empty(shape, np.int64)
        try:
            return np.memmap(self.path, np.int64, "r", self.start, shape).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path} cannot be read: {error}", hint="it is an index: begin the run again"
            ) from error


def index_of(files: Files, file: int, folder: Path | None) -> ShardIndex:
    """Return the index of a shard: the one that fits its size and its last change, or a new one.

    Args:
        files: The shards.
        file: Number of the shard.
        folder: Folder of the index; None to look beside the shard, and then in the cache of the user.

    Raises:
        DataError: if the shard is damaged or hostile, or no folder takes its index.
    """
    size, stamp = files.identity(file)
    candidates = _candidates(files.names[file], folder)
    for path in candidates:
        if (found := _read(path, size, stamp)) is not None:
            return found
    with files.stream(file) as stream:
        suffixes, places = walked(stream, size, files.names[file])
    lacking = {suffix: int((places[:, place, 0] < 0).sum()) for place, suffix in enumerate(suffixes)}
    values = {"version": _VERSION, "size": size, "stamp": stamp, "suffixes": suffixes}
    values["lacking"] = {suffix: count for suffix, count in lacking.items() if count}
    content = save({"places": places}, {"shard": json.dumps(values)})
    for path in candidates:
        with suppress(OSError):
            _write(path, content)
            break
    for path in candidates:
        if (found := _read(path, size, stamp)) is not None:
            return found
    raise DataError(
        f"the index of {files.names[file]} cannot be written: found no folder that takes it, expected one of "
        f"{', '.join(str(path.parent) for path in candidates)}",
        hint="set `index` of the data set to a folder that can be written",
    )


def _candidates(name: str, folder: Path | None) -> list[Path]:
    """Return the places of an index, in the order in which they are tried."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:32] + SUFFIX
    if folder is not None:
        return [folder / digest]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noether" / "webdataset" / digest
    return [cache] if "://" in name else [Path(name + SUFFIX), cache]


def _write(path: Path, content: bytes) -> None:
    """Put an index in its place at once; ranks of several machines may do so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".index-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _read(path: Path, size: int, stamp: str) -> ShardIndex | None:
    """Return the index in a file, or None if there is none that fits the shard: it is written anew then."""
    try:
        if not path.is_file():  # opening a pipe would wait
            return None
        length = path.stat().st_size
        with path.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            if start > min(length, _MOST_INDEX):
                return None
            header = json.loads(stream.read(start - 8))
        record = json.loads(header["__metadata__"]["shard"])
        (samples, *rest), suffixes = header["places"]["shape"], tuple(record["suffixes"])
        fits = (record["version"], record["size"], record["stamp"]) == (_VERSION, size, stamp)
        is_plausible = type(samples) is int and samples >= 0 and bool(suffixes or not samples)
        whole = rest == [len(suffixes), 2] and length == start + 16 * samples * len(suffixes)
        lacking = {str(suffix): int(count) for suffix, count in record["lacking"].items()}
        if fits and is_plausible and whole and all(isinstance(suffix, str) for suffix in suffixes):
            return ShardIndex(path, samples, suffixes, lacking, start, size)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        pass
    return None


class _Headers:
    """The part of a stream that reads headers: a header that claims to be large is refused before it is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int) -> bytes:
        """Return bytes of a header."""
        if size > _MOST_HEADER:
            raise ValueError(f"a header of {size} bytes, expected at most {_MOST_HEADER}")
        return self._read(size)


def walked(stream: BinaryIO, size: int, name: str) -> tuple[list[str], Places]:
    """Return the suffixes of the members of a shard, and their places, without reading the members.

    Args:
        stream: The shard.
        size: Its size in bytes.
        name: Its path or URL, for messages.

    Raises:
        DataError: if it is not a complete tar file, has other members than files and folders, or members of one sample
            that do not follow each other.
    """
    start = stream.read(8)
    if packed := next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None):
        raise DataError(
            f"{name} is compressed: found {packed}, in which no member has a place, expected a plain .tar",
            hint="unpack it; members that are compressed themselves, such as .npz or .jpg, stay so",
        )
    stream.seek(0)
    walk = _Walk(name, size)
    headers: Any = _Headers(stream)
    try:
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # else it would keep all of them
                walk.add(member)
            end = archive.offset
        headers.seek(end)
        marker = headers.read(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise DataError(f"{name} is not a complete tar file: {error}", hint="write or copy it again") from error
    if marker != tarfile.NUL * tarfile.BLOCKSIZE:
        raise DataError(
            f"{name} is not a complete tar file: found {'a damaged header' if marker else 'its end'} at byte {end}, "
            "expected another member or the block that ends a tar file",
            hint="write or copy it again; a writer has to be closed",
        )
    return walk.result()


class _Walk:
    """Members of a shard as samples, by webdataset's convention: the key is the name up to its first dot."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size, self._end = name, size, 0
        self._suffixes: dict[str, int] = {}
        self._keys: set[str] = set()
        self._key = ""
        self._last: set[str] = set()
        self._flat = array("q")  # sample, suffix, offset and size of each member

    def add(self, member: tarfile.TarInfo) -> None:
        """Add the next member.

        Raises:
            DataError: if it is hostile or damaged, or does not belong where it is.
        """
        self._require_safe(member)
        key, suffix = base_plus_ext(member.name)
        if member.isdir() or key is None or _OF_WEBDATASET.match(member.name):
            return
        suffix = suffix.lower()
        if key != self._key:
            if key in self._keys:
                raise self._refused(
                    member, "the sample has members in another place of the shard", "sort them: tar --sort=name …"
                )
            self._keys.add(key)
            self._key, self._last = key, set()
        if not suffix.isprintable():
            raise self._refused(member, "its suffix is not printable text", "write plain names")
        if suffix in self._last:
            raise self._refused(member, "the sample has another member of this suffix", "give members different names")
        self._last.add(suffix)
        place = self._suffixes.setdefault(suffix, len(self._suffixes))
        if place >= _MOST_SUFFIXES:
            raise self._refused(
                member,
                f"the shard has more than {_MOST_SUFFIXES} suffixes",
                "the key of a sample is its name up to the first dot, and has no dot itself",
            )
        self._flat.extend((len(self._keys) - 1, place, member.offset_data, member.size))

    def _require_safe(self, member: tarfile.TarInfo) -> None:
        regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
        if not (regular or member.isdir()):
            found = _TYPES.get(member.type, "of an unknown type")
            raise self._refused(
                member, f"it is {found}, expected a plain file", "tar -h stores files in place of links"
            )
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise self._refused(member, "its name leads out of the shard", "write names without '..' and leading '/'")
        end = member.offset_data + (0 if member.isdir() else member.size)
        if not (self._end <= member.offset < member.offset_data <= end <= self._size):
            raise self._refused(
                member,
                f"it has bytes {member.offset_data} to {end}, expected {self._end} to {self._size} at most",
                "write or copy the shard again",
            )
        self._end = end

    def _refused(self, member: tarfile.TarInfo, why: str, hint: str) -> DataError:
        return DataError(f"{self._name}: the member {member.name[:200]!r} is refused: {why}", hint=hint)

    def result(self) -> tuple[list[str], Places]:
        """Return the suffixes and the places."""
        flat = np.frombuffer(self._flat, np.int64).reshape(-1, 4)
        places = np.full((len(self._keys), len(self._suffixes), 2), -1, np.int64)
        places[flat[:, 0], flat[:, 1]] = flat[:, 2:]
        return list(self._suffixes), places
