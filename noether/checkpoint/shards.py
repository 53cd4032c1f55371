"""Sharded tensor files: each rank writes its parts, an index says where they lie, any number of ranks reads them.

The planners of `torch.distributed.checkpoint` decide who writes and who reads which part. Its storages are not used:
they keep their metadata in a pickle, or unhashed in headers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from noether.checkpoint.manifest import index_file, part_file
from noether.checkpoint.tensor_file import DTYPES, IN_PAIRS, TensorFile
from noether.checkpoint.untrusted import parse_json
from noether.errors import TrainingError

_MOST = 1 << 63
_TYPES = {**DTYPES, **{str(dtype).removeprefix("torch.").upper(): dtype for dtype in IN_PAIRS}}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


class Ranked(Protocol):
    """The ranks of a run: every rank calls the same operations, in the same order."""

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""

    @property
    def world(self) -> int:
        """Return the number of ranks."""

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in the order of ranks; their tensors have to be on the CPU."""

    def share(self, value: Any) -> Any:
        """Return the value of rank 0."""


def has_shards(group: Mapping[str, Any]) -> bool:
    """Return True if ranks hold parts of a tensor; calls nothing for each tensor."""
    return any(hasattr(kind, "to_local") for kind in set(map(type, group.values())))


def local(value: Any) -> Tensor:
    """Return the part of a tensor that this rank holds; a plain one is whole."""
    part: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return part


@dataclass(frozen=True, slots=True)
class Parts:
    """The part of sharded files that this rank writes.

    Attributes:
        files: The tensors, by path in the checkpoint.
        indexes: The index of each sharded file by its path; equal on all ranks.
        are_finite: True if the model's weights are finite on all ranks.
    """

    files: Mapping[str, TensorFile]
    indexes: Mapping[str, bytes]
    are_finite: bool = True


def divide(
    groups: Mapping[str, Mapping[str, Any]], ranks: Ranked, values: Mapping[str, Any], *, are_finite: bool
) -> Parts:
    """Decide who writes which part of sharded files; all ranks call it with groups of the same names.

    Args:
        groups: Tensors by file and name; tied ones are the same object.
        ranks: The ranks of the run.
        values: A tree of JSON to keep beside the tensors, by file.
        are_finite: As in `Parts`.

    Raises:
        TrainingError: if a file cannot hold a tensor.
    """
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner  # takes a second; few runs have shards

    state, aliases = _untied(groups)
    planner = DefaultSavePlanner(
        flatten_state_dict=False, flatten_sharded_tensors=False, dedup_save_to_lowest_rank=True
    )
    planner.set_up_planner(state, is_coordinator=ranks.rank == 0)
    plans, metadata = planner.create_global_plan(ranks.gather(planner.create_local_plan()))
    own: dict[str, dict[str, Tensor]] = {}
    tables: dict[str, dict[str, Any]] = {file: {} for file in groups}
    found: Any
    for key, found in metadata.state_dict_metadata.items():
        file, _, name = key.partition(":")
        tables[file][name] = {"dtype": _name_of(name, found.properties.dtype), "shape": list(found.size), "parts": []}
    for rank, plan in enumerate(plans):
        for item in plan.items:
            file, _, name = item.index.fqn.partition(":")
            assert item.tensor_data is not None, "all of them are tensors"
            chunk = item.tensor_data.chunk
            if math.prod(chunk.sizes):
                tables[file][name]["parts"].append([rank, list(chunk.offsets), list(chunk.sizes)])
                if rank == ranks.rank:
                    own.setdefault(file, {})[name] = local(state[item.index.fqn])
    return Parts(
        {part_file(ranks.rank, file): TensorFile.of(tensors) for file, tensors in own.items()},
        {index_file(file): _encoded(tables[file], aliases[file], values.get(file)) for file in groups},
        are_finite,
    )


def _untied(groups: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, dict[str, str]]]:
    """Return each tensor once by `file:name`, and by file the other names of tied ones."""
    aliases: dict[str, dict[str, str]] = {file: {} for file in groups}
    state: dict[str, Tensor] = {}
    for file, group in groups.items():
        first: dict[int, str] = {}
        for name in sorted(group):
            if (other := first.setdefault(id(group[name]), name)) != name:
                aliases[file][name] = other
            else:
                state[f"{file}:{name}"] = _added_up(group[name].detach())
    return state, aliases


def _added_up(value: Any) -> Tensor:
    """Return a tensor of which ranks hold summands as a whole one."""
    is_sum = any(placement.is_partial() for placement in getattr(value, "placements", ()))
    found: Tensor = value.full_tensor() if is_sum else value
    return found


def _name_of(name: str, dtype: torch.dtype) -> str:
    if dtype not in _NAMES:
        raise TrainingError(
            f"a checkpoint cannot hold the tensor {name!r}: found {dtype}, expected one of {', '.join(DTYPES)}"
        )
    return _NAMES[dtype]


def _encoded(tensors: Mapping[str, Any], aliases: Mapping[str, str], values: Any) -> bytes:
    body = {"tensors": tensors, "aliases": aliases, "values": values}
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class _Part:
    rank: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: list[_Part]

    @classmethod
    def of(cls, name: str, body: Any) -> _Entry:
        """Read an entry of an index.

        Raises:
            ValueError: if the parts do not make up the tensor.
        """
        wrong = ValueError(f"not a valid index: {name[:200]!r} has parts that do not make up a tensor")
        if not isinstance(body, dict) or body.keys() != {"dtype", "shape", "parts"}:
            raise wrong
        if not isinstance(body["dtype"], str) or body["dtype"] not in _TYPES:
            raise wrong
        shape, parts = body["shape"], body["parts"]
        if not _are_sizes(shape) or not isinstance(parts, list):
            raise wrong
        found = []
        for part in parts:
            if not (isinstance(part, list) and len(part) == 3 and _are_sizes([part[0]])):
                raise wrong
            rank, offsets, sizes = part
            if not (_are_sizes(offsets) and _are_sizes(sizes) and len(offsets) == len(sizes) == len(shape)):
                raise wrong
            if any(start + size > end for start, size, end in zip(offsets, sizes, shape, strict=True)):
                raise wrong
            found.append(_Part(rank, tuple(offsets), tuple(sizes)))
        if sum(math.prod(part.sizes) for part in found) != math.prod(shape):
            raise wrong  # so no index makes a reader allocate more than the files hold
        return cls(_TYPES[body["dtype"]], tuple(shape), found)


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and len(found) <= 64 and all(type(x) is int and 0 <= x < _MOST for x in found)


class ShardedTensors(Mapping[str, Any]):
    """The tensors of a sharded file by name; each is put together when it is asked for.

    Args:
        index: Content of the index.
        read: Return the tensors that a rank has written, by name.
        join: Return the other values of the file, from their tree of JSON and the tensors.

    Raises:
        ValueError: if the index is malformed.
    """

    def __init__(
        self,
        index: bytes,
        read: Callable[[int], Mapping[str, Tensor]],
        join: Callable[[Any, dict[str, Tensor]], dict[str, Any]],
    ) -> None:
        body = parse_json(index)
        if not isinstance(body, dict) or body.keys() != {"tensors", "aliases", "values"}:
            raise ValueError("not a valid index: found other keys than tensors, aliases and values")
        if not isinstance(body["tensors"], dict) or not isinstance(body["aliases"], dict):
            raise ValueError("not a valid index: tensors and aliases have to be tables")
        self.entries = {name: _Entry.of(name, entry) for name, entry in body["tensors"].items()}
        self.aliases: dict[str, str] = body["aliases"]
        if any(name in self.entries or str(of) not in self.entries for name, of in self.aliases.items()):
            raise ValueError("not a valid index: an alias has no target or the name of a tensor")
        self._tree, self._read, self._join = body["values"], read, join

    @cached_property
    def _whole(self) -> dict[str, Any]:
        tensors = {name: torch.empty(entry.shape, dtype=entry.dtype) for name, entry in self.entries.items()}
        self.load(tensors)
        tensors |= {name: tensors[of] for name, of in self.aliases.items()}
        return tensors if self._tree is None else self._join(self._tree, tensors)

    def __getitem__(self, name: str) -> Any:
        """Return a whole tensor, or another value."""
        return self._whole[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._whole if self._tree is not None else {**self.entries, **self.aliases})

    def __len__(self) -> int:
        """Return the number of tensors and other values."""
        return sum(1 for _ in self)

    def load(self, targets: Mapping[str, Tensor]) -> None:
        """Fill tensors, or those parts of them that this rank holds; only files with such parts are read."""
        load_parts(targets, self.entries, self._read)


def load_parts(
    targets: Mapping[str, Tensor], entries: Mapping[str, _Entry], read: Callable[[int], Mapping[str, Tensor]]
) -> None:
    """Fill tensors from parts; see `ShardedTensors.load`.

    Raises:
        ValueError: if a file does not have the parts that the index says.
    """
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(targets), _metadata({name: entries[name] for name in targets}), is_coordinator=False)
    wanted: dict[int, list[tuple[_Part, Any]]] = {}
    for item in planner.create_local_plan().items:
        parts = entries[item.storage_index.fqn].parts
        part = next(part for part in parts if part.offsets == tuple(item.storage_index.offset or ()))
        wanted.setdefault(part.rank, []).append((part, item))
    for rank in sorted(wanted):  # one file in memory at a time
        tensors = read(rank)
        for part, item in wanted[rank]:
            name = item.storage_index.fqn
            source = tensors.get(name)
            if source is None or tuple(source.shape) != part.sizes or source.dtype is not entries[name].dtype:
                raise ValueError(f"the part of rank {rank} of {name[:200]!r} is not what the index says")
            for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                source = source.narrow(dim, start, length)
            with torch.no_grad():
                planner.resolve_tensor(item).copy_(source)


def _metadata(entries: Mapping[str, _Entry]) -> Any:
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        TensorProperties,
        TensorStorageMetadata,
    )

    return Metadata(
        {
            name: TensorStorageMetadata(
                TensorProperties(dtype=entry.dtype),
                torch.Size(entry.shape),
                [ChunkStorageMetadata(torch.Size(part.offsets), torch.Size(part.sizes)) for part in entry.parts],
            )
            for name, entry in entries.items()
        }
    )


def _given(tensors: Mapping[str, Tensor], _: int) -> Mapping[str, Tensor]:
    return tensors


def in_shards_of(like: Mapping[str, Any], saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a saved state in which the tensors that are sharded in `like` are sharded in the same way.

    Args:
        like: Tensors by name, as this rank has them.
        saved: A saved state: of a sharded file, of which each rank reads its parts, or of a plain one.
    """
    if not has_shards(like):
        return saved
    if isinstance(saved, ShardedTensors):
        entries, read = saved.entries, saved._read
        names = {**{name: name for name in entries}, **saved.aliases}
    else:
        plain = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
        entries = {
            name: _Entry(value.dtype, tuple(value.shape), [_Part(0, (0,) * value.ndim, tuple(value.shape))])
            for name, value in plain.items()
        }
        read, names = partial(_given, plain), {name: name for name in entries}
    targets: dict[str, Tensor] = {}
    for name, key in names.items():
        entry, own = entries[key], like.get(name)
        if key in targets:
            continue
        if own is not None and hasattr(own, "to_local") and tuple(own.shape) == entry.shape:
            targets[key] = torch.empty_like(own.detach(), dtype=entry.dtype)
        else:
            targets[key] = torch.empty(entry.shape, dtype=entry.dtype)
    load_parts(targets, entries, read)
    found: dict[str, Any] = {name: targets[key] for name, key in names.items()}
    if isinstance(saved, ShardedTensors):
        return found if saved._tree is None else saved._join(saved._tree, found)
    return {**saved, **found}
