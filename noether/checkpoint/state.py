"""The state of a run at a boundary: JSON trees and tensors, and the files that hold them."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor

from noether.checkpoint.durable import Content
from noether.checkpoint.manifest import OPTIMIZER, WEIGHTS, FileRecord
from noether.checkpoint.save import SaveRequest
from noether.checkpoint.shards import Gathers, Parts, divide, is_sharded, local
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

    The tensors are not copied: the files get the values at the time of writing. Sharded ones are left out, see `divided`.

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
    laid_out = {name: lay_out(name, group) for name, group in tensors.items() if group and not _has_shards(group)}
    files: dict[str, Content] = {name: file for name, (file, _) in laid_out.items()}
    files[TRAINER] = _json(tree)
    files |= {rank_file(rank): _json(generators) for rank, generators in enumerate(state.ranks)}
    return files, {name: aliases for name, (_, aliases) in laid_out.items() if aliases}


def divided(state: CheckpointState, request: SaveRequest, ranks: Gathers) -> Parts | None:
    """Return the parts of a checkpoint's sharded files that this rank writes; None if no tensor is sharded.

    Args:
        state: The state; all ranks call this with theirs.
        request: The parts to save.
        ranks: The ranks of the run.

    Raises:
        TrainingError: if something in the state has a type that a checkpoint cannot hold.
    """
    if not _has_shards(state.model):
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Any] = {}
    for name, group in (_without_tensors(state)[1] | _asked_for(state, request)).items():
        if _has_shards(group):
            tree, groups[name] = _split_values(group)
            values |= {name: tree} if tree is not None else {}
    weights = [local(value) for value in state.model.values() if isinstance(value, Tensor)]
    return divide(groups, ranks, values, are_finite=all(ranks.gather(all_finite(weights))))


def _has_shards(group: Mapping[str, Any]) -> bool:
    return any(map(is_sharded, group.values()))


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


@dataclass(frozen=True, slots=True)
class CodeName:
    """A function, a class or a type of torch in a saved state: code is loaded with the model, never from a file.

    Attributes:
        name: Its module and name.
    """

    name: str

    @classmethod
    def of(cls, value: Any) -> CodeName | None:
        """Return the name of a value that is code; None for any other value."""
        if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
            return cls(str(value))
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return cls(f"{value.__module__}.{value.__qualname__}")
        return None


def _without_code(value: Any) -> Any:
    """Replace code by its name; containers of other classes, which would come back as plain ones, become `_Foreign`."""
    if type(value) in (dict, OrderedDict):
        return {key: _without_code(item) for key, item in value.items()}
    if type(value) in (list, tuple, torch.Size):
        return (list if type(value) is list else tuple)(map(_without_code, value))
    if isinstance(value, dict | list | tuple):
        return _Foreign(type(value).__name__)
    return CodeName.of(value) or value


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A value that no checkpoint can hold, by the name of its class."""

    name: str


def split_state(state: Any, owner: str, beside: Mapping[str, Tensor] | None = None) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON tree of `state` and its tensors by name.

    Args:
        state: Nested dicts, lists and tuples of tensors, numbers, strings, bytes, booleans and None.
        owner: Owner of the state, for error messages.
        beside: Tensors of other names in the same file, which are returned too; for the state of a model, in which code
            may stand.

    Raises:
        TrainingError: if something in `state` has another type.
    """
    tensors: dict[str, Tensor] = dict(beside or {})
    try:
        return _split(_without_code(state) if beside is not None else state, owner, "", tensors), tensors
    except RecursionError:
        raise TrainingError(f"the state of {owner} is nested too deeply, or contains itself") from None


_IMMEDIATE = frozenset({str, int, bool})


def _split(value: Any, owner: str, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = path or "value"
        while name in tensors:  # {"a/b": …, "a": {"b": …}} and {1: …, "1": …} lead to one path twice
            name += "'"
        tensors[name] = value.detach()
        return {"$tensor": name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, complex):
        return {"$complex": [_split(part, owner, path, tensors) for part in (value.real, value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"$bytes": value.hex()}
    if isinstance(value, CodeName):
        return {"$code": value.name}
    if isinstance(value, dict):
        return _split_dict(value, owner, path, tensors)
    if isinstance(value, list) and _IMMEDIATE.issuperset(map(type, value)):
        return list(value)  # thousands of names, for example
    if isinstance(value, list | tuple):
        items = [_split(item, owner, f"{path}/{index}".lstrip("/"), tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    name = value.name if isinstance(value, _Foreign) else type(value).__name__
    raise TrainingError(
        f"a checkpoint cannot hold the state of {owner}: found a {name} at '{path}', expected tensors, "
        "numbers, strings, bytes, booleans, None, and dicts, lists and tuples of these",
        hint="convert it in state_dict() or get_extra_state()",
    )


def _split_dict(value: dict[Any, Any], owner: str, path: str, tensors: dict[str, Tensor]) -> Any:
    split = [(key, _split(item, owner, f"{path}/{key}".lstrip("/"), tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(split)
    return {"$items": [[_split(key, owner, path, tensors), item] for key, item in split]}


def join_state(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the state from which `split_state` made `tree` and `tensors`.

    Raises:
        ValueError: if `split_state` did not make the tree: it names a tensor that does not exist, or a mark is
            malformed.
    """
    if isinstance(tree, list):
        return [join_state(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    mark = next((key for key in tree if key.startswith("$")), None)
    if mark is None:
        return {key: join_state(item, tensors) for key, item in tree.items()}
    if len(tree) > 1 or mark not in _JOINED:
        raise ValueError(f"a state cannot hold {mark[:_SHOWN]!r} here")
    try:
        return _JOINED[mark](tree[mark], tensors)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{mark!r} in a state has no target: {str(error)[:_SHOWN]}") from error


def _join_tensor(name: Any, tensors: dict[str, Tensor]) -> Tensor:
    return tensors[name]


def _join_float(text: Any, _: dict[str, Tensor]) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"wrong number in a state: found {str(text)[:_SHOWN]!r}, expected nan, inf or -inf")
    return float(text)


def _join_tuple(items: Any, tensors: dict[str, Tensor]) -> tuple[Any, ...]:
    return tuple(join_state(_list(items), tensors))


def _join_items(items: Any, tensors: dict[str, Tensor]) -> dict[Any, Any]:
    pairs = [_list(pair) for pair in _list(items)]
    return {join_state(key, tensors): join_state(item, tensors) for key, item in pairs}


def _join_complex(parts: Any, tensors: dict[str, Tensor]) -> complex:
    return complex(*(join_state(part, tensors) for part in _list(parts)))


def _join_bytes(text: Any, _: dict[str, Tensor]) -> bytes:
    return bytes.fromhex(text)


def _join_code(name: Any, _: dict[str, Tensor]) -> CodeName:
    return CodeName(str(name))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"found a {type(value).__name__} in a state, expected a list")
    return value


_JOINED: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "$tensor": _join_tensor,
    "$float": _join_float,
    "$complex": _join_complex,
    "$bytes": _join_bytes,
    "$code": _join_code,
    "$tuple": _join_tuple,
    "$items": _join_items,
}
