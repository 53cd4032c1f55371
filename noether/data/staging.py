"""Staging: batches copied to the device ahead of their use, from page-locked buffers or data sets that stay there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from noether.data.collators import moved
from noether.data.dataset import Batch, InMemoryDataset, in_memory
from noether.data.fetch import Fetch, FetchBatch
from noether.data.samplers import TaggedBatch, TaggedIndices
from noether.errors import DataError
from noether.metrics.device import Copy, Device

AHEAD = 2
"""Batches that are loaded and on their way before the first of them is used."""

_SLOTS = AHEAD + 1  # with one slot more, the host waits only if the device has not copied the batch in use


class Slot:
    """Buffers of one batch.

    Args:
        device: Gives page-locked memory.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}
        self._copy: Copy | None = None
        self._held: Any = None

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor in the buffer of a property, which grows if it has to; what was in it is lost."""
        size = dtype.itemsize
        for length in shape:
            size *= length
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            buffer = self._buffers[name] = self._device.buffer(size)
        return buffer[:size].view(dtype).view(shape)

    def free(self) -> None:
        """Wait for the copy from the buffers, if one is under way; AHEAD batches later it is complete as a rule."""
        if self._copy is not None:
            self._copy.wait()
        self._copy = self._held = None

    def send(self, tensors: dict[str, Tensor], held: Any = None) -> tuple[dict[str, Tensor], Copy]:
        """Begin to copy tensors to the device; keep `held` until they are copied."""
        sent, self._copy = self._device.send(tensors)
        self._held = held
        return sent, self._copy


Receive = Callable[[], Any]
"""Returns a staged batch on the device."""


class Stage:
    """Stages the batches of a loader, one after the other.

    Args:
        device: The device to copy to.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._place = torch.device(device.name)
        self._slots = deque(Slot(device) for _ in range(_SLOTS))

    def _slot(self) -> Slot:
        self._slots.rotate(-1)
        slot = self._slots[0]
        slot.free()
        return slot

    def load(self, source: Fetch, indices: Tensor, epoch: int) -> Receive:
        """Load a batch and begin to copy it: rows of tensors are gathered into the buffers, others are copied there."""
        if isinstance(source, FetchResident):
            slot = self._slot()
            room = slot.room("", tuple(indices.shape), indices.dtype)
            sent, copy = slot.send({"": room.copy_(indices)})
            receive = _received(sent, copy)
            return lambda: source(receive()[""], epoch)
        rows = rows_of(source)
        if rows is None:
            return self.take(source(indices, epoch))
        slot, batch = self._slot(), {}
        for name, tensor in rows.properties.items():
            room = slot.room(name, (len(indices), *tensor.shape[1:]), tensor.dtype)
            batch[name] = torch.index_select(tensor, 0, indices, out=room)
        return _received(*slot.send(batch))

    def take(self, batch: Any) -> Receive:
        """Begin to copy a batch that is loaded; one that is not a dict is moved when it is used."""
        if type(batch) is not dict:
            return lambda: moved(batch, self._place)
        slot, tensors, others = self._slot(), {}, {}
        for name, value in batch.items():
            if type(value) is not Tensor or value.layout is not torch.strided or value.device.type != "cpu":
                others[name] = value
            elif value.is_pinned():
                tensors[name] = value
            else:
                tensors[name] = slot.room(name, tuple(value.shape), value.dtype).copy_(value)
        sent, copy = slot.send(tensors, held=batch)
        receive = _received(sent, copy)
        return receive if not others else lambda: _in_order(batch, receive(), moved(others, self._place))


def _received(sent: Batch, copy: Copy) -> Receive:
    def receive() -> Batch:
        copy.receive()
        return sent

    return receive


def _in_order(batch: Batch, *parts: Batch) -> Batch:
    found = {name: value for part in parts for name, value in part.items()}
    return {name: found[name] for name in batch}


def rows_of(source: Fetch) -> InMemoryDataset | None:
    """Return the data set of a source if its batches are rows of the data set's tensors, else None."""
    return in_memory(source.dataset) if type(source) is FetchBatch else None  # type: ignore[arg-type]  # it is a data set


def staged_requests(
    requests: Iterator[TaggedIndices], sources: dict[int, Fetch], device: Device
) -> Iterator[TaggedBatch]:
    """Yield the batches of requests on the device, each loaded and copied while the ones before it are used."""
    stage = Stage(device)
    return _ahead(
        (tag, position, partial(stage.load, sources[tag], indices, epoch)) for tag, epoch, position, indices in requests
    )


def staged_batches(batches: Iterator[TaggedBatch], device: Device) -> Iterator[TaggedBatch]:
    """Yield the batches of workers on the device, each copied while the ones before it are used."""
    stage = Stage(device)
    return _ahead((tag, position, partial(stage.take, batch)) for tag, position, batch in batches)


def _ahead(stages: Iterator[tuple[int, int, Callable[[], Receive]]]) -> Iterator[TaggedBatch]:
    """Begin each stage while the batches before it are used; an error of one is raised in its turn."""
    waiting: deque[tuple[int, int, Receive]] = deque()
    has_more = True
    while has_more or waiting:
        while has_more and len(waiting) < AHEAD:
            try:
                tag, position, begin = next(stages)
                waiting.append((tag, position, begin()))
            except StopIteration:
                has_more = False
            except Exception as error:
                has_more = False
                waiting.append((-1, -1, _raising(error)))
        if waiting:
            tag, position, receive = waiting.popleft()
            yield TaggedBatch(tag, position, receive())


def _raising(error: Exception) -> Receive:
    def receive() -> Any:
        raise error

    return receive


# Data sets that stay on the device


SHARE = 0.5
"""Largest share of the device's free memory that data sets may take; the rest is for the model and its activations."""

Wanted = bool | Literal["auto"]


@dataclass(frozen=True, slots=True)
class Residence:
    """The data sets of a loader that may stay on the device.

    Attributes:
        bytes: Size of those that are rows of tensors.
        free: Free memory of the device in bytes; None if the device is the host's memory.
        hindrance: Reason why they do not stay there, in words; empty if they can.
    """

    bytes: int
    free: int | None
    hindrance: str

    @property
    def words(self) -> str:
        """The size in words."""
        return f"{_mib(self.bytes)} MiB"


def residence(sources: Iterable[Fetch], free: int | None, kept: Collection[int] = ()) -> Residence:
    """Return the size of all data sets of a loader, and the reason why they cannot stay on the device.

    Args:
        sources: The way in which batches of each data set are loaded.
        free: Free memory of the device in bytes; None for that of the host.
        kept: Identities of tensors that are there already.
    """
    sources = list(sources)
    others = dict.fromkeys(str(getattr(source, "name", source)) for source in sources if rows_of(source) is None)
    tensors = {
        id(tensor): tensor
        for source in sources
        if (rows := rows_of(source)) is not None
        for tensor in rows.properties.values()
    }
    size = sum(tensor.nbytes for key, tensor in tensors.items() if key not in kept)
    if free is None:
        return Residence(size, free, "the run computes where they are: in the memory of the host")
    if others:
        found = ", ".join(others)
        return Residence(size, free, f"samples of {found} are loaded one by one or transformed on the way to the batch")
    if size > SHARE * free:
        return Residence(size, free, f"they have {_mib(size)} MiB, and {_mib(SHARE * free)} MiB are free for them")
    return Residence(size, free, "")


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f}"


def require_resident(found: Residence, wanted: Wanted) -> bool:
    """Return True if data sets are to stay on the device.

    Raises:
        DataError: if the spec wants it and they cannot.
    """
    if wanted is True and found.hindrance and found.free is not None:
        raise DataError(
            f"the data sets cannot stay on the device: {found.hindrance}",
            hint='set device_resident = "auto" under [loader], which loads them from the host then',
        )
    return bool(wanted) and not found.hindrance


class FetchResident:
    """Gather batches of a data set on the device.

    Args:
        source: The way in which its batches are loaded on the host.
        device: The device.
        kept: Tensors that are on the device already, by the identity of those on the host; several sources share them.
    """

    def __init__(self, source: Fetch, device: torch.device, kept: dict[int, tuple[Tensor, Tensor]]) -> None:
        rows = rows_of(source)
        assert rows is not None, "residence has found that it has rows"
        self._properties: dict[str, Tensor] = {}
        for name, tensor in rows.properties.items():
            if id(tensor) not in kept:
                kept[id(tensor)] = tensor, tensor.to(device)
            self._properties[name] = kept[id(tensor)][1]

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices`, which are on the device too."""
        del epoch  # rows are the same in each
        return {name: tensor.index_select(0, indices) for name, tensor in self._properties.items()}


def on_device(
    sources: Mapping[int, Fetch], device: torch.device, kept: dict[int, tuple[Tensor, Tensor]]
) -> dict[int, Fetch]:
    """Copy the data sets of sources to the device, and return sources that gather there; see `FetchResident`."""
    return {tag: FetchResident(source, device, kept) for tag, source in sources.items()}


def free_memory(device: torch.device | None) -> int | None:
    """Return the free memory of a device in bytes; None if it has none of its own, or it cannot be asked."""
    if device is None or device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0]
