"""Data sets that stay on the device: batches are gathered there, and only the indices of samples travel."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from noether.data.dataset import Batch
from noether.data.fetch import Fetch
from noether.data.staging import rows_of
from noether.errors import DataError

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
    """Return if all data sets of a loader can stay on the device, and their size.

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
        self._source = source
        self._properties: dict[str, Tensor] = {}
        for name, tensor in rows.properties.items():
            if id(tensor) not in kept:
                kept[id(tensor)] = tensor, tensor.to(device)
            self._properties[name] = kept[id(tensor)][1]

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices`, from the host."""
        return self._source(indices, epoch)

    def gather_on_device(self, indices: Tensor) -> Batch:
        """Return the samples at `indices`, which are on the device too."""
        return {name: tensor.index_select(0, indices) for name, tensor in self._properties.items()}


def on_device(
    sources: Mapping[int, Fetch], device: torch.device, kept: dict[int, tuple[Tensor, Tensor]]
) -> dict[int, Fetch]:
    """Return sources that gather on the device, and copy their data sets there; arguments as of `FetchResident`."""
    return {tag: FetchResident(source, device, kept) for tag, source in sources.items()}


def free_memory(device: torch.device | None) -> int | None:
    """Return the free memory of a device in bytes; None if it has none of its own, or it cannot be asked."""
    if device is None or device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0]
