"""SavedCheckpoint, read file by file with each file hashed before it is used; names of checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import Tensor

from noether.checkpoint.manifest import (
    OPTIMIZER,
    WEIGHTS,
    Manifest,
    NamedCheckpoint,
    NewerFormatError,
    index_file,
    part_file,
    whole_file,
)
from noether.checkpoint.paths import checkpoint_folders, checkpoint_name, read_file, read_manifest
from noether.checkpoint.shards import ShardedTensors
from noether.checkpoint.state import (
    CALLBACKS,
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
from noether.kernel.names import are_path_parts, did_you_mean

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


LATEST = "latest"
_LOG = logging.getLogger("noether.checkpoints")
_T = TypeVar("_T")
_IN_ONE_LINE = 4
_MEANT = 3  # suggestions at most


class CheckpointNames:
    """Resolve names of the checkpoints of one run.

    A name is one of
    - `latest`: the newest checkpoint that can be resumed from; damaged ones are skipped with a warning;
    - one that was given when a checkpoint was saved: `last`, `best_model.<metric>`, `best_model.<metric>.tolerance=5`.
      The metric's slashes may be written as slashes or as dots;
    - a position, `E1_U50_S3200`;
    - a folder, `step-000000000050`.

    Args:
        checkpoints: The folder of the checkpoints.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def find(self, name: str) -> Checkpoint:
        """Return the checkpoint called `name`; only its manifest is read.

        Raises:
            CheckpointError: if there is no such checkpoint (lists the names), or it is damaged.
        """
        return self.load(name, lambda found: found)

    def load(self, name: str, read: Callable[[Checkpoint], _T]) -> _T:
        """Read the checkpoint called `name` with `read`, and return its result.

        For `latest`, if `read` finds the newest checkpoint damaged, it is called with the next older one.

        Args:
            name: The name.
            read: Reads the files that it needs; other files are neither read nor verified.

        Raises:
            CheckpointError: if there is no such checkpoint, or it is damaged.
        """
        if name == LATEST:
            return self._load_latest(read)
        return read(self._named(name))

    def load_weights(self, name: str) -> tuple[Checkpoint, dict[str, Any]]:
        """Return the checkpoint called `name`, and its weights; as `load` does.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged, or it has no weights.
        """
        return self.load(name, lambda found: (found, found.tensors()))

    def known(self) -> list[str]:
        """Return all names that can be resolved, positions last."""
        valid = self._valid()
        latest = [LATEST] if any(checkpoint.manifest.resumable for checkpoint in valid) else []
        given = valid[-1].manifest.names if valid else {}
        return [*latest, *given, *(checkpoint.manifest.iteration for checkpoint in valid)]

    def newest_resumable(self) -> Manifest | None:
        """Return the manifest of the newest checkpoint from which a run can continue; its files are not read."""
        return next((found.manifest for found in reversed(self._valid()) if found.manifest.resumable), None)

    def _load_latest(self, read: Callable[[Checkpoint], _T]) -> _T:
        damages: list[str] = []
        for folder in reversed(checkpoint_folders(self.checkpoints)):
            try:
                checkpoint = SavedCheckpoint.open(folder)
                if checkpoint.manifest.resumable:
                    return read(Checkpoint(checkpoint))
            except NewerFormatError:  # an older one would throw valid work away
                raise
            except CheckpointError as error:
                damages.append(error.message)
                _LOG.warning("%s; trying an older one", error.message)
        if damages:
            raise CheckpointError(
                f"no valid checkpoint is left in {self.checkpoints}: " + "; ".join(damages),
                hint="restore the folder from a backup, or start a new run",
            )
        raise self._unknown(LATEST)

    def _named(self, name: str) -> Checkpoint:
        valid = self._valid()
        given = valid[-1].manifest.names if valid else {}  # older tables of names may be out of date
        if (named := given.get(name) or given.get(name.replace("/", "."))) is not None:
            return self._of(name, named)
        for checkpoint in valid:
            if name in (checkpoint.manifest.iteration, checkpoint.folder.name):
                return Checkpoint(checkpoint)
        if (folder := self.checkpoints / name) in checkpoint_folders(self.checkpoints):
            return Checkpoint(SavedCheckpoint.open(folder))  # raises the error that says how it is damaged
        raise self._unknown(name)

    def _of(self, name: str, named: NamedCheckpoint) -> Checkpoint:
        folder = self.checkpoints / checkpoint_name(named.update)
        if not folder.exists():
            raise CheckpointError(
                f"checkpoint {name!r} is {folder.name}, which was removed from {self.checkpoints}",
                hint=choices(self.known()),
            )
        return Checkpoint(SavedCheckpoint.open(folder), named.weights)

    def _valid(self) -> list[SavedCheckpoint]:
        """Return the checkpoints whose manifest verifies, oldest first."""
        valid = []
        for folder in checkpoint_folders(self.checkpoints):
            try:
                valid.append(SavedCheckpoint.open(folder))
            except CheckpointError as error:
                _LOG.warning("%s; it is skipped", error.message)
        return valid

    def _unknown(self, name: str) -> CheckpointError:
        if not checkpoint_folders(self.checkpoints):
            return CheckpointError(f"{self.checkpoints} holds no checkpoints, so none is called {name!r}")
        meant = meant_by(name, self.known())
        return CheckpointError(f"{self.checkpoints} holds no checkpoint {name!r}.{meant}", hint=choices(self.known()))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The target of a name.

    Attributes:
        saved: The checkpoint.
        weights: Its file with the named weights: `model.safetensors`, or averages.
    """

    saved: SavedCheckpoint
    weights: str = WEIGHTS

    @property
    def path(self) -> Path:
        """The file with the named weights."""
        return self.saved.folder / self.weights

    @property
    def position(self) -> str:
        """Position of the checkpoint, with the file if it is not the live weights: `E1_U50_S3200.ema=0.999`."""
        iteration, file = self.saved.manifest.iteration, Path(self.weights)
        return iteration if self.weights == WEIGHTS else f"{iteration}.{file.parent.name}={file.stem}"

    def tensors(self) -> dict[str, Any]:
        """Return the weights and the other values of the state; averages of a part are completed with live weights.

        Raises:
            CheckpointError: if they are damaged, or the checkpoint has none.
        """
        files = self.saved.manifest.holds
        if self.weights not in files:
            raise CheckpointError(
                f"{self.saved.folder} has no weights: found {', '.join(sorted(files))}, expected {self.weights}"
            )
        live = self.saved.tensors(WEIGHTS) if self.weights != WEIGHTS and WEIGHTS in files else {}
        return live | self.saved.tensors(self.weights)

    def averaged(self, averages: str) -> Checkpoint:
        """Return the averaged weights of the checkpoint instead of its live ones.

        Args:
            averages: The factor, `0.999`; or id of the callback and factor, `ema/0.999`.

        Raises:
            CheckpointError: if the checkpoint has no such averages, or several; the message lists those that it has.
        """
        files = [name for name in self.saved.manifest.holds if name.startswith(CALLBACKS) and name.count("/") > 1]
        held = {name.removeprefix(f"{CALLBACKS}/").removesuffix(".safetensors"): name for name in sorted(files)}
        found = [name for name in held if averages in (name, name.rpartition("/")[2])]
        if len(found) == 1:
            return Checkpoint(self.saved, held[found[0]])
        raise CheckpointError(
            f"{self.saved.folder}: {'ambiguous' if found else 'unknown'} averages: found {averages!r}, expected "
            "averages of the checkpoint",
            hint=f"it holds {', '.join(held)}" if held else "it holds none; choose one of `noether checkpoint list`",
        )


def meant_by(name: str, known: Sequence[str]) -> str:
    """Return `" Did you mean …?"` to append to a message, or an empty string.

    A name may be the beginning of others: `E8` of `E8_U176_S11264`, and `best_model` of every best one.

    Args:
        name: The unknown name.
        known: All names.
    """
    spelt = name.replace("/", ".")
    beginnings = (f"{spelt}_".lower(), f"{spelt}.".lower())
    longer = [candidate for candidate in known if candidate.lower().startswith(beginnings)]
    if not longer:
        return did_you_mean(spelt, known)
    return f" Did you mean {' or '.join(map(repr, longer[:_MEANT]))}?"


def choices(known: Sequence[str]) -> str:
    """Return a hint that lists all names: in one line, or below each other if they are many."""
    if len(known) > _IN_ONE_LINE:
        return "\n    ".join(["it has", *known])
    return "it has " + (", ".join(known) or "no valid checkpoint")
