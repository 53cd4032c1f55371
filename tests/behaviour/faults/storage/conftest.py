"""A disk that counts, records, refuses or kills, and checkpoints whose parts name their save."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from noether.checkpoint import durable
from noether.checkpoint.paths import PathProvider, sweep_leftovers
from noether.checkpoint.saved import Checkpoint, CheckpointNames
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter


class Disk:
    """Stands for `os` in the module that does all I/O of a save; tells `before` of each change to come.

    It waits for no disk: what fsync is good for is another test's matter.
    """

    def __init__(self) -> None:
        self.operations: list[tuple[str, Path]] = []
        self._paths: dict[int, Path] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def before(self, operation: str, path: Path, *more: Any) -> int | None:
        """Take note of an operation; may raise, or return how many bytes of a write are taken."""
        self.operations.append((operation, path))
        return None

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self.before("open", Path(path))
        descriptor = os.open(path, flags, mode)
        self._paths[descriptor] = Path(path)
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        taken = self.before("write", self._paths[descriptor], bytes(data))
        return os.write(descriptor, data if taken is None else data[:taken])

    def fsync(self, descriptor: int) -> None:
        path = self._paths[descriptor]
        self.before("fsyncdir" if path.is_dir() else "fsync", path)

    def mkdir(self, path: Path) -> None:
        self.before("mkdir", path)
        os.mkdir(path)  # noqa: PTH102  # what it stands for

    def rename(self, source: Path, target: Path) -> None:
        self.before("rename", source, target)
        os.rename(source, target)  # noqa: PTH104  # what it stands for

    def replace(self, source: Path, target: Path) -> None:
        self.before("rename", source, target)
        os.replace(source, target)  # noqa: PTH105  # what it stands for

    def unlink(self, path: Path) -> None:
        self.before("unlink", path)
        os.unlink(path)  # noqa: PTH108  # what it stands for

    def rmdir(self, path: Path) -> None:
        self.before("rmdir", path)
        os.rmdir(path)  # noqa: PTH106  # what it stands for


@pytest.fixture
def disk_class() -> type[Disk]:
    return Disk


@pytest.fixture
def using() -> Callable[[Disk], AbstractContextManager[Disk]]:
    """Lets saves use a disk."""

    @contextmanager
    def use(disk: Disk) -> Iterator[Disk]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "os", disk)
            yield disk

    return use


class Saves:
    """The checkpoints of one run; each part holds the number of its save."""

    def __init__(self, folder: Path, keep_last: int = 3) -> None:
        self.writer = CheckpointWriter(PathProvider(folder, "run"), keep_last=keep_last)
        self.checkpoints = self.writer.path_provider.checkpoint_path

    def save(self, update: int, number: int | None = None, tag: str | None = None) -> Path | None:
        """Save the state after `update` updates as save `number`; by default they are the same."""
        self.writer.save(tag)
        return self.writer.commit(state(update, update if number is None else number))

    def recover(self) -> int | None:
        """Start again; return the number of the save that is found, None if there is none."""
        sweep_leftovers(self.checkpoints)
        names = CheckpointNames(self.checkpoints)
        return names.load("latest", number_of) if self.writer.checkpoints else None


def state(update: int, number: int) -> CheckpointState:
    value = torch.full((3,), float(number))
    return CheckpointState(
        epoch=update // 4,
        update=update,
        sample=8 * update,
        model={"w": value, "tied": value, "b": value[:1].clone()},
        optimizer_tensors={"model/w/exp_avg": value.clone()},
        optimizer_values={"model": {"groups": [{"lr": 0.1, "number": number}], "state": {}}},
        trainer={"epoch": update // 4, "update": update, "sample": 8 * update, "scale": value[:1].double()},
        callbacks={"best": {"number": number}, "ema": {"seen": value.clone()}},
        data={"transforms/0/mean": value.clone()},
        ranks=[{"torch": f"{number:08x}"}],
        callback_files={"ema": {"0.9": {"w": -value}}},
    )


def number_of(found: Checkpoint) -> int:
    """Return which save a checkpoint is of, after reading all of it; every part has to say the same."""
    state = found.saved.state()
    numbers = {
        *(float(value) for tensor in state.model.values() for value in tensor),
        *(float(value) for tensor in state.optimizer_tensors.values() for value in tensor),
        *(float(value) for value in state.callbacks["ema"]["seen"]),
        *(float(value) for value in state.data["transforms/0/mean"]),
        *(-float(value) for value in found.saved.tensors("callbacks/ema/0.9.safetensors")["w"]),
        float(state.trainer["scale"]),
        state.callbacks["best"]["number"],
        state.optimizer_values["model"]["groups"][0]["number"],
        int(state.ranks[0]["torch"], 16),
    }
    assert len(numbers) == 1, f"a mixed checkpoint: {numbers}"
    return int(numbers.pop())


@pytest.fixture
def saves() -> type[Saves]:
    return Saves


@pytest.fixture
def saved_number() -> Callable[[Checkpoint], int]:
    """Returns which save a checkpoint is of; it has to be read whole, and not to be mixed."""
    return number_of
