"""The manifest of a step folder: what belongs to it, with sizes and hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1
NAME = "manifest.json"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size in bytes and sha256 of one file of a step folder."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> FileRecord:
        """Describe `data`."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, slots=True)
class NamedStep:
    """What a name such as `best_model.loss.test.total` stands for.

    Attributes:
        update: The step.
        weights: The file in it that holds the weights meant.
    """

    update: int
    weights: str = WEIGHTS


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a committed step is: counters, files, and where it came from.

    Attributes:
        names: All names of the run as of this step, so that the newest step knows them all; no pointer file can be
            stale. `latest` and `E1_U50_S3200` are not among them: they follow from the steps.
    """

    epoch: int
    update: int
    sample: int
    files: dict[str, FileRecord]
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    names: dict[str, NamedStep] = field(default_factory=dict)
    world_size: int = 1
    spec_sha256: str = ""
    parent: str | None = None
    resumable: bool = True
    format: int = FORMAT

    @property
    def iteration(self) -> str:
        """The step as a tag: `E1_U50_S3200`."""
        return f"E{self.epoch}_U{self.update}_S{self.sample}"

    def encode(self) -> bytes:
        """Return the manifest as JSON, its own hash included."""
        body = asdict(self)
        body["sha256"] = _digest(body)
        return json.dumps(body, indent=1, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read a manifest back.

        Raises:
            ValueError: The bytes are no manifest, or not the ones that were written.
        """
        body: Any = json.loads(data)
        if not isinstance(body, dict):
            raise ValueError(f"the manifest is a {type(body).__name__} and no table")
        stated = body.pop("sha256", None)
        if stated != _digest(body):
            raise ValueError("the manifest does not match its own hash")
        if body["format"] != FORMAT:
            raise ValueError(f"the manifest has format {body['format']}; this version reads {FORMAT}")
        files = {name: FileRecord(**record) for name, record in body.pop("files").items()}
        names = {name: NamedStep(**named) for name, named in body.pop("names").items()}
        return cls(files=files, names=names, **body)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
