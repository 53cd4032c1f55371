"""The state of a run at a boundary, and the files that hold it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from noether.core.utils.json_limits import MAX_DEPTH, is_too_deep, json_excess
from noether.core.writers.content import Content
from noether.core.writers.manifest import OPTIMIZER, WEIGHTS
from noether.core.writers.save_request import SaveRequest
from noether.core.writers.state_tree import split_state
from noether.core.writers.tensor_file import lay_out_tensors
from noether.errors import TrainingError
from noether.kernel.names import EXPECTED, are_path_parts

DATA = "data.safetensors"
TRAINER, TRAINER_TENSORS = "trainer.json", "trainer.safetensors"
CALLBACKS = "callbacks"


@dataclass(frozen=True, slots=True)
class StepState:
    """The state of a run at a boundary, as its parts hand it over.

    Attributes:
        epoch: Completed epochs.
        update: Completed updates.
        sample: Samples seen.
        model: The model's `state_dict`.
        frozen: Those of its names that do not train.
        optimizer_tensors: State of the optimizers by `<part>/<parameter>/<entry>`.
        optimizer_values: What else the optimizers keep, by part.
        trainer: The trainer's `state_dict`, without the callbacks.
        callbacks: The callbacks' `state_dict`s by id.
        data: What the transforms learnt from the training set.
        rank: The random generators of this process.
        callback_files: The callbacks' `state_files` by id.
    """

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
    frozen: Collection[str] = ()
    callback_files: Mapping[str, Mapping[str, Mapping[str, Tensor]]] = field(default_factory=dict)


def callback_file(owner: str, name: str | None = None) -> str:
    """Return where a step keeps the tensors of a callback's `state_dict`, or one of its `state_files`.

    Raises:
        TrainingError: The names cannot be those of files.
    """
    path = "/".join(part for part in (owner, name) if part)
    if not are_path_parts(path):
        raise TrainingError(
            f"callback {owner!r} cannot keep its state in a file called {path!r}",
            hint=f"give it an id, and its `state_files` names, of {EXPECTED}",
        )
    return f"{CALLBACKS}/{path}.safetensors"


def encode_step(state: StepState, request: SaveRequest) -> tuple[dict[str, Content], dict[str, dict[str, str]]]:
    """Return the files of a step by name, and the aliases of tied tensors by file.

    The tensors are not copied: their values are those that they have when the files are written.

    Raises:
        TrainingError: Something in the state is of a type that a checkpoint cannot keep.
    """
    tree, tensors = _without_tensors(state)
    tensors |= _asked_for(state, request)
    laid_out = {name: lay_out_tensors(group) for name, group in tensors.items() if group}
    files: dict[str, Content] = {name: file for name, (file, _) in laid_out.items()}
    files[TRAINER] = _json(tree)
    files["rank-00000.json"] = _json(state.rank)
    return files, {name: aliases for name, (_, aliases) in laid_out.items() if aliases}


def _asked_for(state: StepState, request: SaveRequest) -> dict[str, Mapping[str, Tensor]]:
    """Return the groups of tensors that a request may leave out."""
    tensors: dict[str, Mapping[str, Tensor]] = {}
    if request.weights:
        tensors[WEIGHTS] = _weights(state, request)
    if request.optimizer:
        tensors[OPTIMIZER] = state.optimizer_tensors
    for owner, files in state.callback_files.items():
        if request.is_whole or owner in request.owners:
            tensors |= {callback_file(owner, name): group for name, group in files.items()}
    return tensors


def _weights(state: StepState, request: SaveRequest) -> dict[str, Tensor]:
    dropped = () if request.frozen_weights else state.frozen
    parts = request.model_names
    return {
        name: tensor
        for name, tensor in state.model.items()
        if name not in dropped and (parts is None or name.split(".", 1)[0] in parts)
    }


def _without_tensors(state: StepState) -> tuple[dict[str, Any], dict[str, Mapping[str, Tensor]]]:
    """Return the JSON tree of all states, and the tensors taken out of it by file."""
    tensors: dict[str, Mapping[str, Tensor]] = {DATA: state.data}
    callbacks = {}
    for owner, callback_state in state.callbacks.items():
        callbacks[owner], tensors[callback_file(owner)] = split_state(callback_state, f"callback '{owner}'")
    values = {"trainer": state.trainer, "optimizer": state.optimizer_values}
    tree, tensors[TRAINER_TENSORS] = split_state(values, "the trainer")
    return {**tree, "callbacks": callbacks}, tensors


def _json(tree: Any) -> bytes:
    """Return the text of a tree; what would be refused where it is read is refused here already."""
    deep = f"it is nested more than {MAX_DEPTH} deep" if is_too_deep(tree) else None
    data = b"" if deep else json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    if (excess := deep or json_excess(data)) is not None:
        raise TrainingError(
            f"the state of the trainer and its callbacks is too much for a checkpoint: {excess}",
            hint="let state_dict() return tensors, not lists of many numbers",
        )
    return data
