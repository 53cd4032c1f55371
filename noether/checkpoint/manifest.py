"""The manifest of a checkpoint: its files with sizes and hashes, its counters, its names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from noether.checkpoint.durable import Content, chunks_of
from noether.checkpoint.untrusted import parse_json
from noether.errors import CheckpointError, TrainingError
from noether.kernel.names import are_path_parts, has_control

FORMAT = 2
"""Format 1, which is still read, has no `facts`, no `logs`, and no spec among the files."""
NAME = "manifest.json"
MAX_BYTES = 2 << 20
"""Enough for about 10,000 files, names and tied weights; a larger manifest is not read."""
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
SPEC = "spec.resolved.toml"
SHARDS = "shards"
"""Folder of the parts of sharded files, one folder for each rank in it."""
_INDEX = ".shards.json"


def part_file(rank: int, name: str) -> str:
    """Return the path of the part of a sharded file that a rank has written."""
    return f"{SHARDS}/{rank:05d}/{name}"


def index_file(name: str) -> str:
    """Return the path of the index of a sharded file."""
    return f"{name}{_INDEX}"


def whole_file(path: str) -> str:
    """Return the file that a path is a part or the index of; the path itself for a plain file."""
    if path.startswith(f"{SHARDS}/") and path.count("/") > 1:
        return path.split("/", 2)[2]
    return path.removesuffix(_INDEX)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content and origin of a committed checkpoint.

    Attributes:
        names: All names of the run as of this checkpoint, so that the newest checkpoint has them all and no pointer
            file can be stale. `latest` and `E1_U50_S3200` are not listed: they follow from the checkpoints.
        resumable: True if a run can be resumed from it.
        finite: True if all its weights are finite; retention keeps the newest checkpoint that is finite and resumable.
        written_by: The version of Noether that wrote it.
        facts: Facts of the run beside its spec that a resume compares: digests of values and of source files, versions.
        logs: Files of the run that grow, such as `metrics.jsonl`: size and hash of what had been written by then.
    """

    epoch: int
    update: int
    sample: int
    files: dict[str, FileRecord]
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    names: dict[str, NamedCheckpoint] = field(default_factory=dict)
    world_size: int = 1
    spec_sha256: str = ""
    parent: str | None = None
    resumable: bool = True
    finite: bool = True
    written_by: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    logs: dict[str, FileRecord] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def iteration(self) -> str:
        """The checkpoint as a tag: `E1_U50_S3200`."""
        return f"E{self.epoch}_U{self.update}_S{self.sample}"

    @property
    def holds(self) -> frozenset[str]:
        """The files of the checkpoint, a sharded one by the name that it would have in one piece."""
        return frozenset(map(whole_file, self.files))

    def encode(self) -> bytes:
        """Return the manifest as JSON, its own hash included."""
        body = asdict(self)
        body["sha256"] = _digest(body)
        encoded = json.dumps(body, indent=1, sort_keys=True).encode()
        if len(encoded) > MAX_BYTES:
            raise TrainingError(
                f"the manifest of a checkpoint would have {len(encoded)} bytes, at most {MAX_BYTES} can be read",
                hint="save fewer files or names with each checkpoint",
            )
        return encoded

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read a manifest back.

        Raises:
            ValueError: if the bytes are not a manifest, or have changed since they were written.
            NewerFormatError: if it is valid, and a newer version of Noether wrote it.
        """
        body: Any = parse_json(data)
        if not isinstance(body, dict):
            raise ValueError(f"the manifest has a wrong type: found {type(body).__name__}, expected an object")
        stated = body.pop("sha256", None)
        if stated != _digest(body):
            raise ValueError("the manifest does not match its own hash")
        _require_known_format(body)
        body = {"facts": {}, "logs": {}, **body}
        require_manifest_shape(body)
        files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
        names = {name: NamedCheckpoint(**named) for name, named in body.pop("names").items()}
        logs = {name: FileRecord(**record) for name, record in body.pop("logs").items()}
        return cls(files=files, names=names, logs=logs, **body)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size in bytes and sha256 of one file of a checkpoint."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: Content) -> FileRecord:
        """Return size and hash of a content."""
        digest = hashlib.sha256()
        for chunk in chunks_of(content):
            digest.update(chunk)
        return cls(len(content), digest.hexdigest())


@dataclass(frozen=True, slots=True)
class NamedCheckpoint:
    """The target of a name such as `best_model.loss.test.total`.

    Attributes:
        update: Update of the checkpoint.
        weights: The file of the checkpoint with the named weights.
    """

    update: int
    weights: str = WEIGHTS


class NewerFormatError(CheckpointError):
    """A valid checkpoint of a newer version of Noether; it is never skipped in favour of an older checkpoint.

    Args:
        found: Its format.
        known: The newest format that this version reads.
        written_by: The version of Noether that wrote it; empty if unknown.
        where: Name of the checkpoint, for the message.
    """

    def __init__(self, found: int, known: int, written_by: str, where: str = "the checkpoint") -> None:
        self.facts = (found, known, written_by)
        writer = f"noether-train {written_by}" if written_by else "a newer noether-train"
        super().__init__(
            f"{where} is in a newer format: found format {found}, written by {writer}; expected format {known}",
            hint=f"install noether-train{f'>={written_by}' if written_by else ' in a newer version'}",
        )


def _require_known_format(body: dict[str, Any]) -> None:
    found = body.get("format")
    if type(found) is int and 1 <= found <= FORMAT:
        return
    if isinstance(found, int) and found > FORMAT:
        raise NewerFormatError(found, FORMAT, str(body.get("written_by", ""))[:100])
    raise ValueError(f"the manifest has an unknown format: found {found!r}, expected 1 to {FORMAT}")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def require_manifest_shape(body: Mapping[str, Any]) -> None:
    """Check the types, the ranges and the paths of a decoded manifest.

    Raises:
        ValueError: if a value is wrong or missing, or a key is unknown.
    """
    if body.keys() != _FIELDS.keys():
        wrong = ", ".join(sorted(body.keys() ^ _FIELDS.keys()))
        raise ValueError(f"the manifest has missing or unknown keys: {wrong[:200]!r}")
    for name, is_right in _FIELDS.items():
        if not is_right(body[name]):
            raise ValueError(f"`{name}` in the manifest has a value of a wrong type or range")
    for file, aliases in body["aliases"].items():
        if file not in body["files"] or aliases.keys() & set(aliases.values()):
            raise ValueError(f"`aliases` in the manifest name a file that it does not list, or form a cycle: {file!r}")


_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 63


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"size", "sha256"}
        and _is_count(value["size"])
        and _is_text(value["sha256"])
        and _SHA256.fullmatch(value["sha256"]) is not None
    )


def _is_named_checkpoint(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"update", "weights"}
        and _is_count(value["update"])
        and _is_text(value["weights"])
        and are_path_parts(value["weights"])
    )


def _table_of(is_key: Callable[[str], bool], is_value: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def is_table(value: Any) -> bool:
        return isinstance(value, dict) and all(is_key(key) and is_value(item) for key, item in value.items())

    return is_table


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "epoch": _is_count,
    "update": _is_count,
    "sample": _is_count,
    "files": _table_of(are_path_parts, _is_record),
    "aliases": _table_of(are_path_parts, _table_of(_is_text, _is_text)),
    "names": _table_of(lambda name: not has_control(name), _is_named_checkpoint),
    "world_size": lambda value: _is_count(value) and value > 0,
    "spec_sha256": _is_text,
    "parent": lambda value: value is None or (_is_text(value) and are_path_parts(value)),
    "resumable": lambda value: isinstance(value, bool),
    "finite": lambda value: isinstance(value, bool),
    "written_by": _is_text,
    "facts": _table_of(_is_text, _is_text),
    "logs": _table_of(are_path_parts, _is_record),
    "format": _is_count,
}
"""The check of each field of `Manifest`."""
