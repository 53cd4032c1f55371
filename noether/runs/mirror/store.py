"""The store of a mirror behind an fsspec URL: blobs named by their hash, entries of checkpoints, the owner.

    ADDRESS/RUN_ID/owners/000000001-<token>                the attempt that uploads: the one with the highest number
    ADDRESS/RUN_ID/blobs/<sha256>                          files of checkpoints, pieces of the files beside them
    ADDRESS/RUN_ID/checkpoints/step-000000000050.json      entry: the manifest, and the pieces of the other files

An entry is one object and is written last, so that a checkpoint exists in the mirror completely or not at all. An
upload that ended early leaves blobs that nothing lists; the next one uses them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from noether.checkpoint.manifest import SPEC, FileRecord, Manifest, NewerFormatError
from noether.checkpoint.paths import checkpoint_name, update_of
from noether.checkpoint.untrusted import MAX_BYTES, parse_json
from noether.config.secrets import mask, remember_password_in, remember_secret
from noether.errors import CheckpointError, UsageError
from noether.kernel.names import are_path_parts

PIECE = 4 << 20
"""Bytes of a piece of a file that grows: the last piece is uploaded again with each checkpoint, the others once."""
_FORMAT = 1
_OWNER = re.compile(r"[0-9]{9}-[0-9a-f]{32}")
_BLOB = re.compile(r"[0-9a-f]{64}")
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "obs"})
"""Protocols without folders, for which creating a missing folder would create a bucket."""
_SECRET = ("secret", "password", "passwd", "token", "account_key", "connection_string")
_FILES = frozenset({"run.json", "spec.toml", SPEC, "metrics.jsonl", "nonscalars.jsonl", "results.jsonl"})
_FOLDERS = ("attempts/", "spool/", "results/", "checkpoints/pins/")


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint in a mirror, with the files of the run folder that a resume needs beside it.

    Attributes:
        text: The bytes of its manifest.
        manifest: The manifest.
        files: Pieces of the other files by path in the run folder.
    """

    text: bytes
    manifest: Manifest
    files: Mapping[str, tuple[FileRecord, ...]]

    @property
    def blobs(self) -> dict[str, FileRecord]:
        """Return all blobs of the checkpoint by hash."""
        pieces = [piece for pieces in self.files.values() for piece in pieces]
        return {record.sha256: record for record in (*self.manifest.files.values(), *pieces)}

    def encode(self) -> bytes:
        """Return the entry as JSON, its own hash included."""
        files = {name: [[piece.size, piece.sha256] for piece in pieces] for name, pieces in self.files.items()}
        body = {"format": _FORMAT, "manifest": self.text.decode(), "files": files}
        return json.dumps(body | {"sha256": _digest(body)}, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Read an entry back.

        Raises:
            ValueError: if it is damaged, or names a file that a mirror does not hold.
            NewerFormatError: if a newer version of Noether wrote the manifest.
        """
        body: Any = parse_json(data)
        if not isinstance(body, dict) or body.pop("sha256", None) != _digest(body):
            raise ValueError("the entry does not match its own hash")
        if body.keys() != {"format", "manifest", "files"} or body["format"] != _FORMAT:
            raise ValueError(f"the entry has an unknown format: expected {_FORMAT}")
        if not isinstance(body["manifest"], str) or not isinstance(body["files"], dict):
            raise ValueError("the entry has a value of a wrong type")
        text = body["manifest"].encode()
        return cls(text, Manifest.decode(text), {name: _pieces(name, found) for name, found in body["files"].items()})


def _pieces(name: str, found: Any) -> tuple[FileRecord, ...]:
    """Return the pieces of a file after checking its name and their types."""
    if not are_path_parts(name) or not (name in _FILES or name.startswith(_FOLDERS)):
        raise ValueError(f"the entry names a file that a mirror does not hold: {name[:200]!r}")
    if not isinstance(found, list) or not all(isinstance(piece, list) and len(piece) == 2 for piece in found):
        raise ValueError(f"the entry has wrong pieces of {name!r}")
    records = tuple(FileRecord(*piece) for piece in found)
    if not all(_is_blob(record.sha256) and type(record.size) is int and record.size >= 0 for record in records):
        raise ValueError(f"the entry has wrong pieces of {name!r}")
    return records


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _is_blob(name: Any) -> bool:
    return isinstance(name, str) and _BLOB.fullmatch(name) is not None


class Store:
    """The mirror of one run. Nothing is connected to before the first call that reads or writes.

    Every method raises what fsspec and the network raise, as well as what it says.

    Args:
        address: URL below which each run has a folder: `s3://bucket/path`.
        run_id: Name of the run.

    Raises:
        UsageError: if the URL cannot be used, or a package is missing.
    """

    def __init__(self, address: str, run_id: str) -> None:
        remember_password_in(address)
        self.run_id = run_id
        self.address = mask(f"{address.rstrip('/')}/{run_id}")
        self._given = address

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        fs, root = _file_system(self._given)
        return fs, f"{root.rstrip('/')}/{self.run_id}"

    def require_usable(self) -> None:
        """Import what the address needs, and begin nothing.

        Raises:
            UsageError: if the URL cannot be used, or a package is missing.
        """
        with _explained(self._given):
            _fsspec().get_filesystem_class(self._given.partition("://")[0])

    # The owner

    def owner(self) -> str | None:
        """Return the token of the attempt that uploads; None if the mirror has no such run."""
        owners = self._owners()
        return owners[-1].partition("-")[2] if owners else None

    def claim(self, token: str) -> None:
        """Make another attempt the owner: a new object with a higher number, so that nothing is ever half written."""
        former = self._owners()
        number = int(former[-1].partition("-")[0]) + 1 if former else 1
        self._write(f"owners/{number:09d}-{token}", b"\n")
        for name in former:
            self._remove(f"owners/{name}")

    def _owners(self) -> list[str]:
        return sorted(name for name in self._sizes("owners") if _OWNER.fullmatch(name))

    # Entries

    def updates(self) -> list[int]:
        """Return the updates of the checkpoints that have an entry, oldest first."""
        names = (name.removesuffix(".json") for name in self._sizes("checkpoints") if name.endswith(".json"))
        return sorted(update for name in names if (update := update_of(Path(name))) >= 0)

    def entry(self, update: int) -> Entry:
        """Return the entry of a checkpoint.

        Raises:
            CheckpointError: if it is damaged.
            NewerFormatError: if a newer version of Noether wrote it.
        """
        where = f"{self.address}/{_entry_name(update)}"
        try:
            entry = Entry.decode(self._read(_entry_name(update), MAX_BYTES))
            if entry.manifest.update != update:
                raise ValueError(f"found the entry of {checkpoint_name(entry.manifest.update)}")
        except NewerFormatError as error:
            raise NewerFormatError(*error.facts, where=where) from error
        except ValueError as error:
            raise CheckpointError(f"the checkpoint {where} is damaged: {error}") from error
        return entry

    def write_entry(self, entry: Entry) -> None:
        """Write the entry of a checkpoint whose blobs are all there."""
        self._write(_entry_name(entry.manifest.update), entry.encode())

    def remove_entry(self, update: int) -> None:
        """Remove the entry of a checkpoint; its blobs stay."""
        self._remove(_entry_name(update))

    # Blobs

    def blobs(self) -> dict[str, int]:
        """Return the sizes of all blobs by hash."""
        return {name: size for name, size in self._sizes("blobs").items() if _is_blob(name)}

    def write_blob(self, record: FileRecord, chunks: Iterable[bytes]) -> None:
        """Write a blob.

        Raises:
            ValueError: if the chunks are not those of the record.
        """
        if record.size <= PIECE:
            data = b"".join(chunks)
            if FileRecord.of(data) != record:
                raise ValueError(f"found other bytes than those with the sha256 {record.sha256}")
            self._write(f"blobs/{record.sha256}", data)
            return
        out = self._in_folder(f"blobs/{record.sha256}", lambda path: self._opened[0].open(path, "wb"))
        try:
            for chunk in _verified(record, chunks, record.sha256):
                out.write(chunk)
        except BaseException:
            _discard(out)
            raise
        out.close()

    def read_blob(self, record: FileRecord) -> Iterator[bytes]:
        """Yield the bytes of a blob; the error that it is damaged comes after the last of them.

        Raises:
            ValueError: if it is damaged or missing.
        """
        fs, root = self._opened
        try:
            file = fs.open(f"{root}/blobs/{record.sha256}", "rb")
        except FileNotFoundError as error:
            raise ValueError(f"{self.address}/blobs/{record.sha256} is missing") from error
        with file:
            read = iter(lambda: file.read(PIECE), b"")
            yield from _verified(record, read, f"{self.address}/blobs/{record.sha256}")

    def remove_blob(self, sha256: str) -> None:
        """Remove a blob."""
        self._remove(f"blobs/{sha256}")

    # Objects

    def _read(self, name: str, limit: int) -> bytes:
        fs, root = self._opened
        with fs.open(f"{root}/{name}", "rb") as file:
            data: bytes = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"{name} is too large: expected at most {limit} bytes")
        return data

    def _write(self, name: str, data: bytes) -> None:
        self._in_folder(name, lambda path: self._put(path, data))

    def _put(self, path: str, data: bytes) -> None:
        """Write an object at once; object stores do that themselves, a folder needs a rename."""
        fs = self._opened[0]
        if "file" not in _protocols(fs):
            fs.pipe_file(path, data)
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        fs.pipe_file(temporary, data)
        fs.mv(temporary, path)

    def _in_folder(self, name: str, write: Any) -> Any:
        """Call `write` with the path of an object; make its folder if the store has folders, and it is missing."""
        fs, root = self._opened
        path = f"{root}/{name}"
        try:
            return write(path)
        except FileNotFoundError:
            if _protocols(fs) & _BUCKETS:
                raise
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        return write(path)

    def _remove(self, name: str) -> None:
        fs, root = self._opened
        with suppress(FileNotFoundError):
            fs.rm_file(f"{root}/{name}")

    def _sizes(self, folder: str) -> dict[str, int]:
        fs, root = self._opened
        fs.invalidate_cache()
        try:
            found = fs.ls(f"{root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        return {str(item["name"]).rpartition("/")[2]: int(item["size"] or 0) for item in found}


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _entry_name(update: int) -> str:
    return f"checkpoints/{checkpoint_name(update)}.json"


def _verified(record: FileRecord, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield chunks up to the size of a record, then check size and hash.

    Raises:
        ValueError: if they are those of another file.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        size += len(chunk)
        if size > record.size:
            break
        digest.update(chunk)
        yield chunk
    if size != record.size:
        raise ValueError(f"{name}: found {'more' if size > record.size else size} bytes, expected {record.size}")
    if digest.hexdigest() != record.sha256:
        raise ValueError(f"{name} is not what was saved: the sha256 differs")


def _discard(out: Any) -> None:
    """Abandon an object that is half written: closing it would store the half."""
    for give_up in (lambda: out.discard(), lambda: setattr(out, "closed", True)):
        with suppress(Exception):
            give_up()


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise UsageError(
            "missing package for `mirror` under [checkpoints]: fsspec is not installed",
            hint="pip install 'noether-train[mirror]', and the package of your store, such as s3fs",
        ) from error
    return fsspec


def _file_system(address: str) -> tuple[Any, str]:
    """Return the file system of a URL, with the options of fsspec's own config, and the path on it."""
    fsspec = _fsspec()
    _remember_secrets(fsspec.config.conf.get(address.partition("://")[0], {}))
    with _explained(address):
        return fsspec.core.url_to_fs(address, skip_instance_cache=True)  # type: ignore[no-any-return]


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Raise a `UsageError` if fsspec cannot make a file system of an address."""
    protocol = address.partition("://")[0]
    try:
        yield
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or "the package that fsspec names"
        raise UsageError(
            f"missing package for a mirror at {protocol}://: {mask(str(error))}", hint=f"pip install {missing}"
        ) from error
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"wrong `mirror` under [checkpoints]: found {mask(address)!r}, expected a URL that fsspec knows: "
            f"{mask(str(error))}",
            hint="write it as s3://bucket/path; credentials come from the environment or fsspec's own config",
        ) from error


def _remember_secrets(options: Mapping[str, Any]) -> None:
    """Mask the credentials of the environment and of fsspec's config from now on; libraries may quote them."""
    clouds = ("AWS_", "FSSPEC_", "AZURE_", "GOOGLE_", "GCS_")
    tables = [options, *(value for value in options.values() if isinstance(value, Mapping))]
    pairs = [pair for table in tables for pair in table.items()]
    pairs += [(name, value) for name, value in os.environ.items() if name.startswith(clouds)]
    for name, value in pairs:
        if isinstance(value, str) and any(part in str(name).lower() for part in _SECRET):
            remember_secret(value)
