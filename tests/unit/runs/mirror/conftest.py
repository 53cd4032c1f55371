"""A run folder with checkpoints, and a store in memory that fails when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from noether.checkpoint.manifest import FileRecord
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.retention import Retention
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.runs.mirror.store import Store
from noether.runs.mirror.upload import Upload

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402


class Faulty(MemoryFileSystem):
    """Files in memory; `fault` is called before each operation, with its name and the path, and may raise."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fault: ClassVar[Callable[[str, str], object]] = staticmethod(lambda operation, path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("faulty://", "memory://"))

    def _open(self, path, mode="rb", **kwargs):
        type(self).fault("write" if "w" in mode else "read", path)
        return super()._open(path, mode, **kwargs)

    def ls(self, path, detail=True, **kwargs):
        type(self).fault("list", path)
        return super().ls(path, detail, **kwargs)

    def rm_file(self, path):
        type(self).fault("remove", path)
        super().rm_file(path)


@pytest.fixture
def faulty() -> Iterator[type[Faulty]]:
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    Faulty.store, Faulty.pseudo_dirs, Faulty.fault = {}, [""], staticmethod(lambda operation, path: None)
    yield Faulty
    Faulty.fault = staticmethod(lambda operation, path: None)


class TinyRun:
    """A run folder whose checkpoints have one tensor, and a line of metrics for each update."""

    def __init__(self, output: Path, run_id: str = "mine") -> None:
        self.paths = PathProvider(output, run_id)
        self.writer = CheckpointWriter(self.paths, keep_last=2)
        self.paths.run_path.mkdir(parents=True)
        (self.paths.run_path / "run.json").write_text('{"format": 1}')
        self.metrics = b""
        self.said: list[str] = []

    def save(self, update: int, **parts: Any) -> None:
        self.metrics += b'{"update": %d}\n' % update
        self.paths.metrics_path.write_bytes(self.metrics + b'{"update": a torn li')
        weights = {"w": torch.full((4,), float(update))}
        logs = {"metrics.jsonl": FileRecord.of(self.metrics)}
        self.writer.save(**parts)
        self.writer.commit(CheckpointState(0, update, update, weights, {}, {}, {}, {}, {}, [{}], logs=logs))

    def upload(self, store: Store, token: str = "1" * 32, accepted: str | None = None) -> Upload:
        upload = Upload(store, self.paths, accepted, self.said.append, token)
        upload.retention = Retention(2)
        return upload


@pytest.fixture
def tiny_run(tmp_path: Path) -> TinyRun:
    run = TinyRun(tmp_path / "here")
    for update in (1, 2):
        run.save(update)
    return run


@pytest.fixture
def store(faulty: type[Faulty]) -> Store:
    return Store("faulty://bucket/runs", "mine")


@pytest.fixture
def elsewhere(tmp_path: Path) -> PathProvider:
    """The paths of the run on a machine that does not have it."""
    return PathProvider(tmp_path / "elsewhere", "mine")
