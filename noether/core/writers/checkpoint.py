"""CheckpointWriter: collects what callbacks ask to save and commits it as one step at the boundary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from noether.core.providers.path import PathProvider
from noether.core.writers.manifest import FileRecord, Manifest
from noether.core.writers.state_tree import split_state
from noether.core.writers.step_folder import commit_step, list_steps, prune_steps, sweep_leftovers
from noether.core.writers.tensor_file import encode_tensors


@dataclass(slots=True)
class SaveRequest:
    """What the hooks of one boundary have asked for, together."""

    weights: bool = False
    optimizer: bool = False
    tags: list[str] = field(default_factory=list)
    model_names: set[str] | None = field(default_factory=set)

    def add(self, tag: str | None, *, weights: bool, optimizer: bool, model_names: Iterable[str] | None) -> None:
        """Widen the request; None as `model_names` asks for all models."""
        self.weights |= weights
        self.optimizer |= optimizer
        if tag is not None and tag not in self.tags:
            self.tags.append(tag)
        if model_names is None or self.model_names is None:
            self.model_names = None
        else:
            self.model_names |= set(model_names)

    def include(self, earlier: SaveRequest) -> None:
        """Widen the request by an earlier one, whose tags come first."""
        later, self.tags = self.tags, []
        for tag in (None, *earlier.tags, *later):
            self.add(tag, weights=earlier.weights, optimizer=earlier.optimizer, model_names=earlier.model_names)


@dataclass(frozen=True, slots=True)
class StepState:
    """The state of a run at a boundary, as its parts hand it over."""

    epoch: int
    update: int
    sample: int
    model: Mapping[str, Tensor]
    optimizer_tensors: Mapping[str, Tensor]
    optimizer_values: Mapping[str, Any]
    trainer: Mapping[str, Any]
    callbacks: Mapping[str, Any]
    data: Mapping[str, Tensor]
    rank: Mapping[str, Any]


class CheckpointWriter:
    """Writes the step folders of one run.

    Callbacks call `save`; nothing is written until the boundary of the update, where the whole state is captured once,
    after all hooks. So the order of callbacks cannot matter for what a checkpoint holds.

    Args:
        path_provider: Where the run keeps its checkpoints.
        keep_last: How many of the newest steps stay.
        spec_sha256: Hash of the resolved spec, recorded in each manifest.
    """

    def __init__(self, path_provider: PathProvider, *, keep_last: int = 3, spec_sha256: str = "") -> None:
        self.path_provider = path_provider
        self.keep_last = keep_last
        self.spec_sha256 = spec_sha256
        self.pending: SaveRequest | None = None
        self.last_committed: Path | None = None
        self._saved: tuple[int, SaveRequest] | None = None
        self._parent: str | None = None

    def save(
        self,
        tag: str | None = None,
        *,
        save_weights: bool = True,
        save_optim: bool = True,
        model_names: Iterable[str] | None = None,
    ) -> None:
        """Ask for a checkpoint of the current update; it is committed at the update's boundary.

        Args:
            tag: A name that the step gets beside its `E…_U…_S…` one.
            save_weights: Whether the step holds the weights.
            save_optim: Whether the step holds the optimizer's state; without it the step cannot be resumed from.
            model_names: Parts of a composite to save; None for all.
        """
        if self.pending is None:
            self.pending = SaveRequest()
        self.pending.add(tag, weights=save_weights, optimizer=save_optim, model_names=model_names)

    def commit(self, state: StepState) -> Path:
        """Write the pending request with `state` as one step and remove what retention lets go.

        Raises:
            StorageError: The disk refused; older steps stay as they are.
        """
        assert self.pending is not None, "commit needs a request"
        request, self.pending = self.pending, None
        self._include_earlier(state.update, request)
        files, aliases = encode_step(state, request)
        manifest = Manifest(
            epoch=state.epoch,
            update=state.update,
            sample=state.sample,
            files={name: FileRecord.of(data) for name, data in files.items()},
            aliases=aliases,
            tags=request.tags,
            spec_sha256=self.spec_sha256,
            parent=self._parent,
            resumable=request.weights and request.optimizer and request.model_names is None,
        )
        self.last_committed = commit_step(self.path_provider.checkpoint_path, files, manifest)
        prune_steps(self.path_provider.checkpoint_path, self.keep_last)
        return self.last_committed

    def _include_earlier(self, update: int, request: SaveRequest) -> None:
        """Widen a request for an update that was saved before, so that its new save lacks nothing of the old one."""
        if self._saved is not None and self._saved[0] == update:
            request.include(self._saved[1])
        else:
            self._parent = self.last_committed.name if self.last_committed else None
        self._saved = (update, request)

    def sweep(self) -> None:
        """Remove leftovers of interrupted saves."""
        sweep_leftovers(self.path_provider.checkpoint_path)

    @property
    def steps(self) -> list[Path]:
        """The committed steps, oldest first."""
        return list_steps(self.path_provider.checkpoint_path)


def encode_step(state: StepState, request: SaveRequest) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
    """Return the files of a step by name, and the aliases of tied tensors by file."""
    tensors: dict[str, Mapping[str, Tensor]] = {}
    if request.weights:
        tensors["model.safetensors"] = _parts(state.model, request.model_names)
    if request.optimizer:
        tensors["optimizer.safetensors"] = state.optimizer_tensors
    if state.data:
        tensors["data.safetensors"] = state.data
    callbacks = {}
    for identifier, callback_state in state.callbacks.items():
        tree, held = split_state(callback_state, f"callback '{identifier}'")
        callbacks[identifier] = tree
        if held:
            tensors[f"callbacks/{identifier}.safetensors"] = held
    values = {"trainer": state.trainer, "optimizer": state.optimizer_values}
    tree, held = split_state(values, "the trainer")
    if held:
        tensors["trainer.safetensors"] = held
    encoded = {name: encode_tensors(group) for name, group in tensors.items()}
    files = {name: data for name, (data, _) in encoded.items()}
    files["trainer.json"] = _json({**tree, "callbacks": callbacks})
    files["rank-00000.json"] = _json(state.rank)
    return files, {name: aliases for name, (_, aliases) in encoded.items() if aliases}


def _parts(model: Mapping[str, Tensor], names: set[str] | None) -> dict[str, Tensor]:
    if names is None:
        return dict(model)
    return {key: tensor for key, tensor in model.items() if key.split(".", 1)[0] in names}


def _json(tree: Any) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
