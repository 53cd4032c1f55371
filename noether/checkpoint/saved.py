"""SavedCheckpoint: read a checkpoint file by file; each is hashed before it is used, nothing is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from noether.checkpoint.manifest import OPTIMIZER, WEIGHTS, Manifest, index_file, part_file, whole_file
from noether.checkpoint.paths import read_file, read_manifest
from noether.checkpoint.shards import ShardedTensors
from noether.checkpoint.state import (
    DATA,
    TRAINER,
    TRAINER_TENSORS,
    CheckpointState,
    callback_file,
    decode_state,
    join_values,
    rank_file,
)
from noether.checkpoint.state_tree import join_state
from noether.checkpoint.tensor_file import decode_tensors
from noether.checkpoint.untrusted import parse_json
from noether.errors import CheckpointError
from noether.kernel.names import are_path_parts

_SHOWN = 200  # characters of a quotation in a message


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """One checkpoint; its files are read when they are needed.

    Attributes:
        folder: Its folder.
        manifest: Its manifest.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the manifest of a checkpoint.

        Raises:
            CheckpointError: if it is missing or damaged.
        """
        return cls(folder, read_manifest(folder))

    def tensors(self, name: str) -> dict[str, Any]:
        """Return the tensors of one file by name, tied ones as the same object; of a model also its other values.

        Raises:
            CheckpointError: if the checkpoint has no such file, or it is damaged.
        """
        try:
            return dict(self._tensors(name))
        except ValueError as error:  # of a part
            raise self._unreadable(name, error) from error

    def _tensors(self, name: str) -> Mapping[str, Any]:
        """Return the tensors of one file; of a sharded one a mapping that reads them when they are asked for."""
        is_sharded = index_file(name) in self.manifest.files
        data = read_file(self.folder, self.manifest, index_file(name) if is_sharded else name)
        try:
            if is_sharded:
                return ShardedTensors(data, partial(self._part, name), join_values)
            return decode_state(data, self.manifest.aliases.get(name, {}))
        except ValueError as error:
            raise self._unreadable(name, error) from error

    def _part(self, name: str, rank: int) -> dict[str, Tensor]:
        return decode_tensors(read_file(self.folder, self.manifest, part_file(rank, name)), {})

    def state(self) -> CheckpointState:
        """Return the whole state, the counterpart of `encode_checkpoint`; the callbacks' own files are verified only.

        They are large, and each callback reads its own from the folder.

        Raises:
            CheckpointError: if the checkpoint is damaged, or is a partial save, which cannot be resumed from.
        """
        self._require_resumable()
        tree = self._trainer_tree()
        values = self._joined({name: tree[name] for name in ("trainer", "optimizer")}, TRAINER_TENSORS)
        files = {callback_file(owner) for owner in tree["callbacks"]}
        for name in self.manifest.files:
            if whole_file(name) != name or (name.startswith("callbacks/") and name not in files):
                read_file(self.folder, self.manifest, name)
        return CheckpointState(
            epoch=self.manifest.epoch,
            update=self.manifest.update,
            sample=self.manifest.sample,
            model=self._tensors_if_any(WEIGHTS),
            optimizer_tensors=self._tensors_if_any(OPTIMIZER),
            optimizer_values=values["optimizer"],
            trainer=values["trainer"],
            callbacks=self.callbacks(),
            data=self.data(),
            ranks=[self._json(rank_file(rank)) for rank in range(self.manifest.world_size)],
        )

    def callbacks(self) -> dict[str, Any]:
        """Return the states of the callbacks by id; partial saves have them too.

        Raises:
            CheckpointError: if the checkpoint is damaged.
        """
        tree = self._trainer_tree()["callbacks"]
        return {owner: self._joined(state, callback_file(owner)) for owner, state in tree.items()}

    def data(self) -> Mapping[str, Tensor]:
        """Return the state of the transforms, fitted on the training set.

        Raises:
            CheckpointError: if the checkpoint is damaged.
        """
        return self._tensors_if_any(DATA)

    def _require_resumable(self) -> None:
        if not self.manifest.resumable:
            found = ", ".join(sorted(self.manifest.files))
            raise CheckpointError(
                f"cannot resume from {self.folder}: found a partial save with {found}, expected the whole state",
                hint='choose another checkpoint, or take its weights alone with initializer kind = "checkpoint"',
            )

    def _tensors_if_any(self, name: str) -> Mapping[str, Any]:
        """Return the tensors of a file that is written only if there are any."""
        return self._tensors(name) if name in self.manifest.holds else {}

    def _trainer_tree(self) -> dict[str, Any]:
        """Return the content of `trainer.json` after checking its tables and counters."""
        tree = self._json(TRAINER)
        for part in ("trainer", "optimizer", "callbacks"):
            if not isinstance(tree.get(part), dict):
                raise self._unreadable(TRAINER, ValueError(f"it has no table `{part}`"))
        for owner in tree["callbacks"]:
            if not are_path_parts(owner):
                raise self._unreadable(TRAINER, ValueError(f"{owner[:_SHOWN]!r} is not the id of a callback"))
        for unit in tree["trainer"].keys() & {"epoch", "update", "sample"}:
            found, expected = str(tree["trainer"][unit])[:_SHOWN], getattr(self.manifest, unit)
            if tree["trainer"][unit] != expected:
                raise self._unreadable(
                    TRAINER, ValueError(f"the state is at {unit} {found}, the manifest says {expected}")
                )
        return tree

    def _json(self, name: str) -> dict[str, Any]:
        data = read_file(self.folder, self.manifest, name)
        try:
            tree = parse_json(data)
            if not isinstance(tree, dict):
                raise ValueError(f"found a {type(tree).__name__}, expected an object")
        except ValueError as error:
            raise self._unreadable(name, error) from error
        return tree

    def _joined(self, tree: Any, file: str) -> Any:
        """Return a tree with the tensors of a file put back in their places."""
        tensors: Mapping[str, Tensor] = self._tensors_if_any(file)
        try:
            return join_state(tree, dict(tensors))
        except ValueError as error:
            raise self._unreadable(file, error) from error

    def _unreadable(self, name: str, error: Exception) -> CheckpointError:
        return CheckpointError(f"the checkpoint {self.folder} is damaged: {name} cannot be read: {error}")
