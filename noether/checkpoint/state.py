"""The state of a run at a boundary: JSON trees and tensors, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from noether.checkpoint.durable import Content
from noether.checkpoint.manifest import OPTIMIZER, WEIGHTS, FileRecord
from noether.checkpoint.save import SaveRequest
from noether.checkpoint.shards import Parts, Ranked, divide, has_shards, local
from noether.checkpoint.state_tree import join_state, split_state
from noether.checkpoint.tensor_file import TensorFile, all_finite, decode_tensors, lay_out_tensors, values_in
from noether.checkpoint.untrusted import TOO_DEEP, is_too_deep, json_excess
from noether.errors import TrainingError
from noether.kernel.names import EXPECTED, are_path_parts

DATA = "data.safetensors"
TRAINER, TRAINER_TENSORS = "trainer.json", "trainer.safetensors"
CALLBACKS = "callbacks"
LayOut = Callable[[str, Mapping[str, Any]], tuple[TensorFile, dict[str, str]]]
_SHOWN = 200  # characters of a quotation in a message


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """The state of a run at a boundary, collected from its parts.

    Attributes:
        epoch: Completed epochs.
        update: Completed updates.
        sample: Samples seen.
        model: The model's `state_dict`; it may have other values than tensors.
        frozen: Names in `model` of the parameters that do not train.
        optimizer_tensors: State of the optimizers by `<part>/<parameter>/<entry>`.
        optimizer_values: Other values of the optimizers, by part.
        trainer: The trainer's `state_dict`, without the callbacks.
        callbacks: The callbacks' `state_dict`s by id.
        data: State of the transforms, fitted on the training set.
        ranks: States of the random generators, by rank.
        callback_files: The callbacks' `state_files` by id.
        logs: As in `Manifest`.
    """

    epoch: int
    update: int
    sample: int
    model: Mapping[str, Any]
    optimizer_tensors: Mapping[str, Tensor]
    optimizer_values: Mapping[str, Any]
    trainer: Mapping[str, Any]
    callbacks: Mapping[str, Any]
    data: Mapping[str, Tensor]
    ranks: Sequence[Mapping[str, Any]]
    frozen: Collection[str] = ()
    callback_files: Mapping[str, Mapping[str, Mapping[str, Tensor]]] = field(default_factory=dict)
    logs: Mapping[str, FileRecord] = field(default_factory=dict)


def rank_file(rank: int) -> str:
    """Return the file for the random generators of a rank."""
    return f"rank-{rank:05d}.json"


def callback_file(owner: str, name: str | None = None) -> str:
    """Return the file for the tensors of a callback's `state_dict`, or for one of its `state_files`.

    Raises:
        TrainingError: if the names cannot be used in a path.
    """
    path = "/".join(part for part in (owner, name) if part)
    if not are_path_parts(path):
        raise TrainingError(
            f"wrong name of a state file of callback {owner!r}: found {path!r}, expected {EXPECTED}",
            hint="change the id of the callback, or the names of its `state_files`",
        )
    return f"{CALLBACKS}/{path}.safetensors"


def encode_checkpoint(
    state: CheckpointState, request: SaveRequest, lay_out: LayOut | None = None
) -> tuple[dict[str, Content], dict[str, dict[str, str]]]:
    """Return the files of a checkpoint by name, and the aliases of tied tensors by file.

    The tensors are not copied: the files get the values at the time of writing. Sharded ones are left out: see
    `divided`.

    Args:
        state: The state.
        request: The parts to save.
        lay_out: Return the file of a `state_dict` by the name of the file; by default it is laid out anew.

    Raises:
        TrainingError: if something in the state has a type that a checkpoint cannot hold.
    """
    tree, tensors = _without_tensors(state)
    tensors |= _asked_for(state, request)
    lay_out = lay_out or (lambda _, group: lay_out_state(group))
    laid_out = {name: lay_out(name, group) for name, group in tensors.items() if group and not has_shards(group)}
    files: dict[str, Content] = {name: file for name, (file, _) in laid_out.items()}
    files[TRAINER] = _json(tree)
    files |= {rank_file(rank): _json(generators) for rank, generators in enumerate(state.ranks)}
    return files, {name: aliases for name, (_, aliases) in laid_out.items() if aliases}


def divided(state: CheckpointState, request: SaveRequest, ranks: Ranked | None) -> Parts | None:
    """Return the parts of a checkpoint's sharded files that this rank writes; None if no tensor is sharded.

    Args:
        state: The state; all ranks call this with theirs.
        request: The parts to save.
        ranks: The ranks of the run; None for one.

    Raises:
        TrainingError: if something in the state has a type that a checkpoint cannot hold.
    """
    if ranks is None or not has_shards(state.model):
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Any] = {}
    for name, group in (_without_tensors(state)[1] | _asked_for(state, request)).items():
        if has_shards(group):
            tree, groups[name] = _split_values(group)
            values |= {name: tree} if tree is not None else {}
    weights = [local(value) for value in state.model.values() if isinstance(value, Tensor)]
    return divide(groups, ranks, values, are_finite=all(ranks.gather(all_finite(weights))))


def passing_files(state: CheckpointState, request: SaveRequest, files: Collection[str]) -> frozenset[str]:
    """Return those of a checkpoint's files that are for the newest one only; all of them if nothing else is to stay."""
    lasting = request.lasting
    if not (lasting.weights or lasting.optimizer or lasting.owners):
        return frozenset(files) | _asked_for(state, request).keys()
    return frozenset(_asked_for(state, request).keys() - _asked_for(state, lasting).keys())


def _asked_for(state: CheckpointState, request: SaveRequest) -> dict[str, Mapping[str, Any]]:
    """Return the groups of tensors that a request may leave out."""
    tensors: dict[str, Mapping[str, Any]] = {}
    if request.weights:
        tensors[WEIGHTS] = _weights(state, request)
    if request.optimizer:
        tensors[OPTIMIZER] = state.optimizer_tensors
    for owner, files in state.callback_files.items():
        if request.is_whole or owner in request.owners:
            tensors |= {callback_file(owner, name): group for name, group in files.items()}
    return tensors


def _weights(state: CheckpointState, request: SaveRequest) -> dict[str, Any]:
    dropped = () if request.frozen_weights else state.frozen
    parts = request.model_names
    if not dropped and parts is None:
        return dict(state.model)
    return {
        name: tensor
        for name, tensor in state.model.items()
        if name not in dropped and (parts is None or name.split(".", 1)[0] in parts)
    }


def _without_tensors(state: CheckpointState) -> tuple[dict[str, Any], dict[str, Mapping[str, Tensor]]]:
    """Return the JSON tree of all states, and the tensors taken out of it by file."""
    tensors: dict[str, Mapping[str, Tensor]] = {DATA: state.data}
    callbacks = {}
    for owner, callback_state in state.callbacks.items():
        callbacks[owner], tensors[callback_file(owner)] = split_state(callback_state, f"callback '{owner}'")
    tree, tensors[TRAINER_TENSORS] = split_state({"trainer": state.trainer}, "the trainer")
    optimizers, further = split_state({"optimizer": state.optimizer_values}, "the optimizer")
    tree, tensors[TRAINER_TENSORS] = {**tree, **optimizers}, {**tensors[TRAINER_TENSORS], **further}
    return {**tree, "callbacks": callbacks}, tensors


def _json(tree: Any, owner: str = "the trainer and its callbacks") -> bytes:
    """Return the JSON of a tree; refuses a tree that the reader would refuse."""
    excess = TOO_DEEP if is_too_deep(tree) else None
    try:
        data = b"" if excess else json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:  # an integer of thousands of digits
        excess = str(error)
    if excess or (excess := json_excess(data)):
        raise TrainingError(
            f"the state of {owner} is too large for a checkpoint: {excess}",
            hint="return tensors from state_dict() and get_extra_state(), not lists of many numbers",
        )
    return data


def lay_out_state(state: Mapping[str, Any]) -> tuple[TensorFile, dict[str, str]]:
    """Return the file of a `state_dict`, and aliases as from `lay_out_tensors`.

    Other values than tensors, such as the extra state of a module, stand in the file as JSON, their tensors below
    their name. Code in them (a function, a class, a type of torch) is not state: its name alone is kept.

    Raises:
        TrainingError: if something in the state has a type that a checkpoint cannot hold.
    """
    tree, tensors = _split_values(state)
    return lay_out_tensors(tensors, tree)


def _split_values(state: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Return the tensors of a `state_dict`, and the tree of all other values; None if there are none."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if len(tensors) == len(state):
        return None, tensors
    if wrong := [name for name in state if not isinstance(name, str)]:
        raise TrainingError(f"wrong names in the state of the model: found {wrong[:_SHOWN]}, expected text")
    others = {name: value for name, value in state.items() if name not in tensors}
    tree, tensors = split_state(others, "the model", tensors)
    _json(tree, "the model")
    return tree, tensors


def encode_state(state: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """Return the file of a `state_dict` as bytes, and aliases as from `lay_out_state`."""
    file, aliases = lay_out_state(state)
    return b"".join(file.chunks()), aliases


def decode_state(data: bytes, aliases: Mapping[str, str]) -> dict[str, Any]:
    """Return the `state_dict` in the bytes of a file, tied tensors as the same object, code as `CodeName`.

    Raises:
        ValueError: if the bytes are not a tensor file, or do not fit the aliases.
    """
    state: dict[str, Any] = decode_tensors(data, aliases)
    tree = values_in(data)
    return state if tree is None else join_values(tree, state)


def join_values(tree: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return the `state_dict` of tensors and a tree of all other values.

    Raises:
        ValueError: if they do not fit.
    """
    values = join_state(tree, state)
    if not isinstance(values, dict):
        raise ValueError(f"found a {type(values).__name__} as the values of a tensor file, expected a table")
    inner = set(_tensors_named(tree))
    return {name: value for name, value in state.items() if name not in inner} | values


def _tensors_named(tree: Any) -> Iterator[str]:
    """Yield the names of the tensors that stand inside of other values."""
    if isinstance(tree, dict) and isinstance(tree.get("$tensor"), str):
        yield tree["$tensor"]
    elif isinstance(tree, dict | list):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors_named(item)
