"""Snapshots: layouts of tensor files and main memory for a copy of the state, both kept from one save to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from noether.checkpoint.durable import Content
from noether.checkpoint.state import lay_out_state
from noether.checkpoint.tensor_file import IN_PAIRS, TensorFile, identity_of, is_joinable

SMALL = 1 << 16
"""Bytes of a tensor; files of larger ones are laid out anew: it costs little beside a copy, and keeps no memory."""
_STRETCH = 256  # tensors
_PLAIN = {Tensor, nn.Parameter}
_shape, _dtype = attrgetter("shape"), attrgetter("dtype")


@dataclass(slots=True)
class _Layout:
    """The layout of one file, and all that it depends on.

    Attributes:
        names: Names of the tensors, in the order of the state.
        facts: Place, shape, type and contiguity of each of them.
        exact: Identities of tensors for which the facts are not enough, by index.
        file: The file.
        aliases: Names of tied tensors.
        runs: Neighbours in the file that one call copies, made when the file is copied for the second time.
        is_copied: True if the file was copied before.
    """

    names: list[str]
    facts: list[tuple[list[Any], ...]]
    exact: dict[int, tuple[object, ...]]
    file: TensorFile
    aliases: dict[str, str]
    runs: list[_Run] | None = None
    is_copied: bool = False

    def fits(self, names: list[str], tensors: list[Tensor]) -> bool:
        """Return True if a state with these tensors has the same file."""
        return (
            names == self.names
            and _facts_of(tensors) == self.facts
            and all(identity_of(tensors[index]) == identity for index, identity in self.exact.items())
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbours of one type in a file, each as a view of one dimension.

    Attributes:
        start: Index of the first one.
        end: Index after the last one.
        offset: Place of the first one among the bytes of the tensors.
        size: Bytes of all of them.
        parts: The views.
    """

    start: int
    end: int
    offset: int
    size: int
    parts: list[Tensor]


class Snapshot:
    """Layouts of the files of a save, and main memory for a copy of their tensors, both used again by the next save.

    A copy is valid until the next one is taken.
    """

    def __init__(self) -> None:
        self._layouts: dict[str, _Layout] = {}
        self._copies: dict[str, TensorFile] = {}

    def lay_out(self, name: str, state: Mapping[str, Any]) -> tuple[TensorFile, dict[str, str]]:
        """Return the file of a `state_dict` and its aliases, as `lay_out_state` does.

        The layout is made again if a name, a shape, a type or the place of a tensor in memory has changed.

        Args:
            name: Name of the file.
            state: The state.

        Raises:
            TrainingError: if something in the state has a type that a checkpoint cannot hold.
        """
        names, tensors = list(state), list(state.values())
        is_plain = set(map(type, tensors)) <= _PLAIN
        kept = self._layouts.get(name)
        if kept is not None and is_plain and kept.fits(names, tensors):
            return kept.file, kept.aliases
        self._layouts.pop(name, None)
        del kept
        file, aliases = lay_out_state(state)
        if is_plain and file.size < SMALL * len(tensors) and not any(tensor.dtype in IN_PAIRS for tensor in tensors):
            self._layouts[name] = _Layout(names, _facts_of(tensors), _exact(tensors), file, aliases)
        return file, aliases

    @torch.no_grad()
    def take(self, files: Mapping[str, Content]) -> dict[str, Content]:
        """Return files of the same bytes that no later change of a tensor reaches.

        Args:
            files: The files of `encode_checkpoint`; those that are bytes already are not copied.
        """
        taken: dict[str, Content] = dict(files)
        sources: list[Tensor] = []
        targets: list[Tensor] = []
        for name, file in files.items():
            if isinstance(file, TensorFile):
                former = self._copies.get(name)
                if former is None or former.header != file.header:
                    self._copies.pop(name, None)  # two copies at once are too many
                    former = self._copies[name] = file.like()
                begin = 0
                own, into = list(file.tensors.values()), list(former.tensors.values())
                for run in self._runs(name, file):
                    _join(run, former)
                    sources += own[begin : run.start]
                    targets += into[begin : run.start]
                    begin = run.end
                sources += own[begin:]
                targets += into[begin:]
                taken[name] = former
        _copy(sources, targets)
        return taken

    def _runs(self, name: str, file: TensorFile) -> list[_Run]:
        """Return the neighbours to copy in one call; none for a file that is new, whose views would cost more."""
        layout = self._layouts.get(name)
        if layout is None or layout.file is not file:
            return []
        if layout.is_copied and layout.runs is None:
            layout.runs = _runs_of(file)
        layout.is_copied = True
        return layout.runs or []


def _facts_of(tensors: list[Tensor]) -> list[tuple[list[Any], ...]]:
    """Return place, shape, type and contiguity of tensors; a stretch at a time, which stays in the cache."""
    facts: list[tuple[list[Any], ...]] = []
    for start in range(0, len(tensors), _STRETCH):
        part = tensors[start : start + _STRETCH]
        try:
            places = list(map(Tensor.data_ptr, part))
        except RuntimeError:  # of a sparse tensor, which no file holds
            return []
        contiguous, negated = list(map(Tensor.is_contiguous, part)), list(map(Tensor.is_neg, part))
        facts.append((places, list(map(_shape, part)), list(map(_dtype, part)), contiguous, negated))
    return facts


def _exact(tensors: list[Tensor]) -> dict[int, tuple[object, ...]]:
    """Return the identities of strided and complex tensors, and of those that begin at one place: they may be tied."""
    times = Counter(map(Tensor.data_ptr, tensors))
    return {
        index: identity_of(tensor)
        for index, tensor in enumerate(tensors)
        if times[tensor.data_ptr()] > 1 or not tensor.is_contiguous() or tensor.is_complex()
    }


def _runs_of(file: TensorFile) -> list[_Run]:
    runs, start, offset = [], 0, 0
    for kind, found in groupby(file.tensors.values(), key=lambda tensor: is_joinable(tensor) and tensor.dtype):
        tensors = list(found)
        size = sum(tensor.nbytes for tensor in tensors)
        if kind and len(tensors) > 1:
            parts = [tensor.view(-1) for tensor in tensors]
            runs.append(_Run(start, start + len(tensors), offset, size, parts))
        start, offset = start + len(tensors), offset + size
    return runs


def _join(run: _Run, target: TensorFile) -> None:
    """Copy neighbours to their place in one call, which costs half as much as one call for each."""
    assert target.memory is not None, "a copy lies in one piece of memory"
    torch.cat(run.parts, out=target.memory[run.offset : run.offset + run.size].view(run.parts[0].dtype))


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy all tensors, those of a GPU in parallel, and wait for the copies."""
    if not sources:
        return
    devices = {tensor.device for tensor in sources if tensor.is_cuda}
    torch._foreach_copy_(targets, sources, non_blocking=bool(devices))
    for device in devices:
        torch.cuda.synchronize(device)
