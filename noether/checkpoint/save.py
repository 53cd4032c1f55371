"""Saves: requests of one boundary, snapshots, background writing, and the policy if the disk refuses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from noether.checkpoint.commit import CheckpointFolder, FolderGoneError
from noether.checkpoint.durable import Content
from noether.checkpoint.manifest import WEIGHTS, Manifest, NamedCheckpoint
from noether.checkpoint.retention import Retention
from noether.checkpoint.tensor_file import TensorFile, all_finite
from noether.errors import StorageError


class Snapshot:
    """Memory for the tensors of one save, kept from one save to the next.

    It holds one copy of what is saved, in main memory. What was taken last is valid until the next is taken.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def take(self, files: Mapping[str, Content]) -> dict[str, Content]:
        """Return files of the same bytes that no later change of a tensor reaches.

        Args:
            files: As `encode_checkpoint` returns them; what is bytes already is kept as it is.
        """
        taken: dict[str, Content] = dict(files)
        sources: list[Tensor] = []
        targets: list[Tensor] = []
        for name, file in files.items():
            if isinstance(file, TensorFile):
                former = self._buffers.get(name, {})
                buffers = {key: _buffer_for(tensor, former.get(key)) for key, tensor in file.tensors.items()}
                self._buffers[name] = buffers
                sources += file.tensors.values()
                targets += buffers.values()
                taken[name] = TensorFile(buffers, file.header)
        _copy(sources, targets)
        return taken


def _buffer_for(tensor: Tensor, former: Tensor | None) -> Tensor:
    """Return memory that fits a tensor: that of the save before where it does."""
    if former is not None and former.shape == tensor.shape and former.dtype == tensor.dtype:
        return former
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy all tensors; those of a GPU at once, waited for in the end."""
    if not sources:
        return
    devices = {tensor.device for tensor in sources if tensor.is_cuda}
    torch._foreach_copy_(targets, sources, non_blocking=bool(devices))
    for device in devices:
        torch.cuda.synchronize(device)


LAST = "last"
"""The name of the step that a run ends with, whatever ends it."""


@dataclass(slots=True)
class SaveRequest:
    """What the hooks of one boundary have asked for, together.

    Attributes:
        weights: Whether the step holds the model's weights.
        optimizer: Whether it holds the optimizer's state.
        names: Names that the step gets, each with the file whose weights it stands for.
        model_names: Parts of a composite to save; None for all.
        frozen_weights: Whether parameters that do not train are saved too.
        owners: Callbacks whose files are wanted; a whole save holds those of all.
    """

    weights: bool = False
    optimizer: bool = False
    names: dict[str, str] = field(default_factory=dict)
    model_names: set[str] | None = field(default_factory=set)
    frozen_weights: bool = False
    owners: set[str] = field(default_factory=set)

    @classmethod
    def whole(cls) -> SaveRequest:
        """Return the request for all that a run needs to go on."""
        return cls(weights=True, optimizer=True, model_names=None, frozen_weights=True)

    @property
    def holds_whole_model(self) -> bool:
        """Whether the step holds all of the model's weights."""
        return self.weights and self.frozen_weights and self.model_names is None

    @property
    def is_whole(self) -> bool:
        """Whether a run can go on from it."""
        return self.holds_whole_model and self.optimizer

    @property
    def is_last(self) -> bool:
        """Whether it is that of the end of the run, after which no other one comes."""
        return LAST in self.names

    def add_parts(
        self, *, weights: bool, optimizer: bool, model_names: Iterable[str] | None, frozen_weights: bool
    ) -> None:
        """Widen the request; None as `model_names` asks for all parts of the model."""
        self.optimizer |= optimizer
        if not weights:
            return
        self.weights = True
        self.frozen_weights |= frozen_weights
        if model_names is None or self.model_names is None:
            self.model_names = None
        else:
            self.model_names |= set(model_names)

    def add_files(self, owner: str) -> None:
        """Ask for the files of a callback."""
        self.owners.add(owner)

    def add_name(self, name: str, weights: str = WEIGHTS) -> None:
        """Give the step a name that stands for the weights in one of its files."""
        self.names[name] = weights

    def named(self, update: int) -> dict[str, NamedCheckpoint]:
        """Return what the names stand for once the step of an update is there."""
        return {name: NamedCheckpoint(update, weights) for name, weights in self.names.items()}

    def include(self, earlier: SaveRequest) -> None:
        """Widen the request by one that was made for the same update before."""
        self.add_parts(
            weights=earlier.weights,
            optimizer=earlier.optimizer,
            model_names=earlier.model_names,
            frozen_weights=earlier.frozen_weights,
        )
        self.owners |= earlier.owners
        self.names = {**earlier.names, **self.names}


class SaveQueue:
    """The request of the boundary to come, and the save in flight; shared by a checkpoint writer and its views.

    Attributes:
        pending: What has been asked for; None where nothing was.
        in_flight: The save that is being written while training goes on, until it is settled; None where there is none.
        refusal: Why nothing can be asked for now; None where it can.
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


@dataclass(frozen=True, slots=True)
class PlannedSave:
    """What is written, in this thread or in another one; both come to the same bytes.

    Attributes:
        request: What was asked for.
        files: What the step holds.
        manifest: What is said of it, but for the files' hashes and whether the weights are finite.
        weights: Those that have to be finite for the step to count as finite; of a partial save, all of the model.
    """

    request: SaveRequest
    files: dict[str, Content]
    manifest: Manifest
    weights: Collection[Tensor]

    def captured(self, snapshot: Snapshot) -> PlannedSave:
        """Return the same save of copies, which training cannot change."""
        files = snapshot.take(self.files)
        weights = files.get(WEIGHTS)
        if self.request.holds_whole_model and isinstance(weights, TensorFile):
            return replace(self, files=files, weights=list(weights.tensors.values()))
        manifest = replace(self.manifest, finite=all_finite(self.weights))  # not all of them were copied
        return replace(self, files=files, manifest=manifest, weights=())

    def write(self, folder: CheckpointFolder, retention: Retention) -> Path:
        """Store the step, then remove what retention lets go; return the step.

        Raises:
            StorageError: The disk refused; older steps stay as they are.
        """
        manifest = replace(self.manifest, finite=self.manifest.finite and all_finite(self.weights))
        step = folder.commit(self.files, manifest)
        folder.prune(retention, {named.update for named in manifest.names.values()})
        folder.warn_if_short_of_room(sum(map(len, self.files.values())), retention)
        return step


class BackgroundSave:
    """A save in flight. Its thread writes and does nothing else: what follows from it is the training thread's job.

    The process does not end before it has, unless it is killed.

    Args:
        planned: What is saved; nothing may change it any more.
        write: Writes it and returns the step.
    """

    def __init__(self, planned: PlannedSave, write: Callable[[], Path]) -> None:
        self.planned = planned
        self._outcome: Future[Path] = Future()
        threading.Thread(target=self._run, args=(write,), name="checkpoint").start()

    @property
    def has_ended(self) -> bool:
        """Whether `step` returns, or raises, at once."""
        return self._outcome.done()

    def step(self) -> Path:
        """Wait for the end of the save and return the step.

        Raises:
            Exception: What writing it has raised.
        """
        return self._outcome.result()

    def is_stored(self) -> bool:
        """Wait for the end of the save and return whether the step is there."""
        return self._outcome.exception() is None

    def _run(self, write: Callable[[], Path]) -> None:
        try:
            self._outcome.set_result(write())
        except BaseException as error:
            self._outcome.set_exception(error)  # raised where the save is taken up


OnSaveError = Literal["warn", "raise"]
TOLERATED = 3
"""Failed saves in a row that `warn` goes on after."""

_LOG = logging.getLogger("noether.checkpoints")


class SavePolicy:
    """Decides whether a run goes on after a failed save, and counts those in a row.

    Args:
        on_save_error: `raise` ends the run; `warn` goes on, and the next save is the next attempt. The save at the end
            of the run, or at a signal, always raises: no other comes after it.
    """

    def __init__(self, on_save_error: OnSaveError = "raise") -> None:
        self.on_save_error = on_save_error
        self.in_a_row = 0

    def succeeded(self) -> None:
        """Take note of a save."""
        self.in_a_row = 0

    def failed(self, error: StorageError, request: SaveRequest) -> None:
        """Warn of a failed save.

        Args:
            error: Why it failed.
            request: What was to be saved.

        Raises:
            StorageError: `error`, where the run must not go on.
        """
        self.in_a_row += 1
        if self.on_save_error == "raise" or request.is_last or isinstance(error, FolderGoneError):
            raise error
        if self.in_a_row > TOLERATED:
            error.add_note(f"{TOLERATED} saves before it have failed as well")
            raise error
        lost = f"; the names {', '.join(request.names)} stay where they were" if request.names else ""
        _LOG.warning("%s; training goes on (failed save %d of %d)%s", error.message, self.in_a_row, TOLERATED, lost)
