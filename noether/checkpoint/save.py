"""Saves: requests of one boundary, background writing, and the policy if the disk refuses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from noether.checkpoint.commit import CheckpointFolder, RunLostError, SharedSave
from noether.checkpoint.durable import Content
from noether.checkpoint.manifest import OPTIMIZER, WEIGHTS, Manifest, NamedCheckpoint
from noether.checkpoint.retention import Retention
from noether.checkpoint.shards import Parts
from noether.checkpoint.tensor_file import TensorFile, all_finite
from noether.errors import StorageError, TrainingError
from noether.kernel.names import has_control

_LOG = logging.getLogger("noether.checkpoints")

LAST = "last"
"""Name of the checkpoint at the end of a run."""

OnSaveError = Literal["warn", "raise"]
TOLERATED = 3
"""Failed saves in a row that `warn` tolerates."""


@dataclass(slots=True)
class SaveRequest:
    """The requests of all hooks of one boundary, joined.

    Attributes:
        weights: Save the model's weights.
        optimizer: Save the optimizer's state.
        names: Names that the checkpoint gets, each with its file of the named weights.
        model_names: Parts of a composite to save; None for all.
        frozen_weights: Save parameters that do not train as well.
        owners: Callbacks whose files are saved; a whole save has those of all.
        kept: The parts that stay (`WEIGHTS`, `OPTIMIZER`, callbacks); the others are for the newest checkpoint only.
        newest_of: Callbacks whose newest checkpoint it is: it takes the parts that do not stay from the one before.
    """

    weights: bool = False
    optimizer: bool = False
    names: dict[str, str] = field(default_factory=dict)
    model_names: set[str] | None = field(default_factory=set)
    frozen_weights: bool = False
    owners: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    newest_of: set[str] = field(default_factory=set)

    @classmethod
    def whole(cls) -> SaveRequest:
        """Return the request for everything that a resume needs."""
        return cls(weights=True, optimizer=True, model_names=None, frozen_weights=True, kept={WEIGHTS, OPTIMIZER})

    @property
    def lasting(self) -> SaveRequest:
        """The same request without the parts that are for the newest checkpoint only."""
        return replace(
            self,
            weights=self.weights and WEIGHTS in self.kept,
            optimizer=self.optimizer and OPTIMIZER in self.kept,
            owners=self.owners & self.kept,
        )

    @property
    def holds_whole_model(self) -> bool:
        """True if the checkpoint has all of the model's weights."""
        return self.weights and self.frozen_weights and self.model_names is None

    @property
    def is_whole(self) -> bool:
        """True if a run can be resumed from the checkpoint."""
        return self.holds_whole_model and self.optimizer

    @property
    def is_last(self) -> bool:
        """True if it is the request at the end of the run, the last one."""
        return LAST in self.names

    def add_parts(
        self,
        *,
        weights: bool,
        optimizer: bool,
        model_names: Iterable[str] | None,
        frozen_weights: bool,
        newest_of: str | None = None,
    ) -> None:
        """Widen the request; None as `model_names` asks for all parts of the model.

        With `newest_of`, the parts are for the newest checkpoint of that callback only.
        """
        if newest_of is None:
            self.kept |= {WEIGHTS} if weights else set()
            self.kept |= {OPTIMIZER} if optimizer else set()
        else:
            self.newest_of.add(newest_of)
        self.optimizer |= optimizer
        if not weights:
            return
        self.weights = True
        self.frozen_weights |= frozen_weights
        if model_names is None or self.model_names is None:
            self.model_names = None
        else:
            self.model_names |= set(model_names)

    def add_name(self, name: str, weights: str = WEIGHTS) -> None:
        """Give the checkpoint a name for the weights in one of its files.

        Raises:
            TrainingError: if the name has control characters.
        """
        if has_control(name):
            raise TrainingError(f"wrong name of a checkpoint: found {name!r}, expected no control characters")
        self.names[name] = weights

    def named(self, update: int) -> dict[str, NamedCheckpoint]:
        """Return the targets of the names, for the checkpoint of an update."""
        return {name: NamedCheckpoint(update, weights) for name, weights in self.names.items()}

    def include(self, earlier: SaveRequest) -> None:
        """Widen the request by an earlier one for the same update."""
        kept = self.kept | earlier.kept
        self.add_parts(
            weights=earlier.weights,
            optimizer=earlier.optimizer,
            model_names=earlier.model_names,
            frozen_weights=earlier.frozen_weights,
        )
        self.owners |= earlier.owners
        self.kept, self.newest_of = kept, self.newest_of | earlier.newest_of
        self.names = {**earlier.names, **self.names}


class SaveQueue:
    """The request of the boundary to come, and the save in flight.

    Attributes:
        pending: The request so far; None if there is none.
        in_flight: The save that is being written while training goes on, until it is settled; None if there is none.
        refusal: Reason why saves are refused now; None if they are not.
    """

    __slots__ = ("in_flight", "pending", "refusal")

    def __init__(self) -> None:
        self.pending: SaveRequest | None = None
        self.in_flight: BackgroundSave | None = None
        self.refusal: str | None = None

    def request(self) -> SaveRequest:
        """Return the request to widen."""
        if self.pending is None:
            self.pending = SaveRequest()
        return self.pending


class SavePolicy:
    """Policy after a failed save: end the run, or warn and go on for a few saves in a row.

    Args:
        on_save_error: `raise` ends the run; `warn` goes on, and the next save is the next attempt. The save at the end
            of the run, or at a signal, always raises: no other comes after it.
    """

    def __init__(self, on_save_error: OnSaveError = "raise") -> None:
        self.on_save_error = on_save_error
        self.in_a_row = 0

    def succeeded(self) -> None:
        """Record a successful save."""
        self.in_a_row = 0

    def failed(self, error: StorageError, request: SaveRequest) -> None:
        """Warn about a failed save.

        Args:
            error: The error.
            request: The request that was not saved.

        Raises:
            StorageError: if the run must end; it is `error`.
        """
        self.in_a_row += 1
        if self.on_save_error == "raise" or request.is_last or isinstance(error, RunLostError):
            raise error
        if self.in_a_row > TOLERATED:
            error.add_note(f"{TOLERATED} saves before it have failed as well")
            raise error
        lost = f"; the names {', '.join(request.names)} stay where they were" if request.names else ""
        _LOG.warning("%s; training goes on (failed save %d of %d)%s", error.message, self.in_a_row, TOLERATED, lost)


@dataclass(frozen=True, slots=True)
class PreparedSave:
    """A save that is ready to be written, in this thread or in another one, with the same bytes.

    Attributes:
        request: The request.
        files: Content of the checkpoint's files.
        manifest: Its manifest, without the files' hashes and `finite`.
        weights: Weights from which `finite` is computed; of a partial save, those of the whole model.
        passing: Its files that are for the newest checkpoint only; all of them if nothing else is to stay.
        outdated: The `passing` files of checkpoints that it takes them from, by update.
    """

    request: SaveRequest
    files: dict[str, Content]
    manifest: Manifest
    weights: Collection[Tensor]
    passing: frozenset[str] = frozenset()
    outdated: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def with_parts(self, parts: Parts) -> PreparedSave:
        """Return the same save with the indexes of sharded files; it is finite if the weights of all ranks are."""
        manifest = replace(self.manifest, finite=parts.are_finite or not self.request.weights)
        return replace(self, files={**self.files, **parts.indexes}, manifest=manifest, weights=())

    def captured(self, take: Callable[[Mapping[str, Content]], dict[str, Content]]) -> PreparedSave:
        """Return the same save with copies of the tensors, which `take` makes and training cannot change."""
        files = take(self.files)
        weights = files.get(WEIGHTS)
        if self.request.holds_whole_model and isinstance(weights, TensorFile):
            return replace(self, files=files, weights=weights.blocks)
        manifest = replace(self.manifest, finite=all_finite(self.weights))  # not all of them were copied
        return replace(self, files=files, manifest=manifest, weights=())

    def write(self, folder: CheckpointFolder, retention: Retention, shared: SharedSave | None = None) -> Path:
        """Commit the checkpoint, with the parts of all ranks, then prune old ones; return the new one.

        Raises:
            StorageError: if the disk refuses; older checkpoints are untouched.
        """
        manifest = replace(self.manifest, finite=self.manifest.finite and all_finite(self.weights))
        commit = partial(folder.commit, self.files, manifest)
        checkpoint = commit() if shared is None else shared.lead(commit)
        named = {named.update for named in manifest.names.values()}
        if manifest.finite:
            folder.cut(self.outdated, retention, named)
        folder.prune(retention, named)
        folder.warn_if_short_of_room(sum(map(len, self.files.values())), retention)
        return checkpoint


class BackgroundSave:
    """A save in flight. Its thread only writes; the training thread records the result.

    The process does not exit before the thread has ended, unless it is killed.

    Args:
        prepared: The save; it must not change any more.
        write: Writes it and returns the checkpoint.
    """

    def __init__(self, prepared: PreparedSave, write: Callable[[], Path]) -> None:
        self.prepared = prepared
        self._outcome: Future[Path] = Future()
        threading.Thread(target=copy_context().run, args=(self._run, write), name="checkpoint").start()

    @property
    def has_ended(self) -> bool:
        """True if `checkpoint` returns, or raises, at once."""
        return self._outcome.done()

    def checkpoint(self) -> Path:
        """Wait for the end of the save and return the checkpoint.

        Raises:
            Exception: If writing it raised.
        """
        return self._outcome.result()

    def is_stored(self) -> bool:
        """Wait for the end of the save and return True if it succeeded."""
        return self._outcome.exception() is None

    def _run(self, write: Callable[[], Path]) -> None:
        try:
            self._outcome.set_result(write())
        except BaseException as error:
            self._outcome.set_exception(error)  # raised in the training thread
