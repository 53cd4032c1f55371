"""Buffers of a model that forward passes change, put back if their update is not applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer


@dataclass(slots=True)
class _Kept:
    """A buffer as it was before an update.

    Attributes:
        buffer: The tensor that the module had; None for a buffer that it has not filled yet.
        version: Its version counter; None for a tensor without one.
        copy: Its values; None if there are none.
    """

    buffer: Tensor | None
    version: int | None
    copy: Tensor | None


class KeptBuffers:
    """Copies of a model's buffers as they are before an update, to put back those that it changed.

    A buffer is copied again only if it has changed since: it has another version counter, it is another tensor, or the
    first update has changed its values (`buffer.data.mul_(0.9)` changes no counter). So running statistics are copied
    at every update, and tables that never change once.

    Args:
        *models: The model, and the module that wraps it.
    """

    def __init__(self, *models: nn.Module) -> None:
        self._models = models
        self._owners: dict[int, dict[str, Tensor | None]] = {}
        self._kept: dict[tuple[int, str], _Kept] = {}
        self._changing: set[tuple[int, str]] = set()
        self._updates = 0
        self._is_settled = False

    def keep(self) -> bool:
        """Copy what has changed since the last call, before the first forward pass of an update.

        Returns:
            False if the model has no buffers, also after its first update.
        """
        if self._updates < 2:  # the first forward pass may make buffers
            modules = (module for model in self._models for module in model.modules())
            self._owners = {id(module._buffers): module._buffers for module in modules if module._buffers}
            self._settle()
        self._updates += 1
        sources, copies = [], []
        for owner, buffers in self._owners.items():
            for name, buffer in buffers.items():
                key = (owner, name)
                kept = self._kept.get(key)
                if kept is None or kept.buffer is not buffer or not _fits(kept.copy, buffer):
                    self._kept[key] = _kept(buffer)
                elif (
                    buffer is not None
                    and kept.copy is not None
                    and (key in self._changing or (kept.version is not None and kept.version != buffer._version))
                ):
                    kept.version = buffer._version
                    sources.append(buffer.detach())
                    copies.append(kept.copy)
        if copies:
            torch._foreach_copy_(copies, sources)
        return bool(self._owners) or self._updates < 2

    def put_back(self, mask: Tensor | None = None) -> None:
        """Give the buffers the values back that they had before the update.

        Args:
            mask: 1.0 or 0.0 on the device: put back, or leave alone; None to put back. It is read only if a buffer has
                another shape now.
        """
        self._settle()
        changed = self._changed()
        if mask is not None and any(not _fits(kept.copy, now) for _, _, kept, now in changed):
            if not bool(mask):
                return
            mask = None
        if mask is None:
            for buffers, name, kept, _ in changed:
                _restore(buffers, name, kept)
            return
        groups: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for _, _, kept, now in changed:
            assert kept.copy is not None and now is not None, "it fits"
            groups.setdefault(now.dtype, []).append((now.detach(), kept.copy))
        for pairs in groups.values():
            _choose(mask, pairs)

    def _changed(self) -> list[tuple[dict[str, Tensor | None], str, _Kept, Tensor | None]]:
        found = []
        for owner, buffers in self._owners.items():
            for name, now in buffers.items():
                kept = self._kept.get((owner, name)) or _Kept(None, None, None)
                is_same = kept.buffer is now and (now is None or kept.version is None or kept.version == now._version)
                if not is_same or (owner, name) in self._changing:
                    found.append((buffers, name, kept, now))
        return found

    def _settle(self) -> None:
        """Find the buffers that the first update has changed; waits for the device once."""
        if self._is_settled or not self._updates:
            return
        self._is_settled = True
        for owner, buffers in self._owners.items():
            for name, now in buffers.items():
                kept = self._kept.get((owner, name))
                if kept is None or kept.buffer is not now or kept.copy is None or now is None:
                    continue
                if not _fits(kept.copy, now) or not torch.equal(kept.copy, now):
                    self._changing.add((owner, name))


def _kept(buffer: Tensor | None) -> _Kept:
    if buffer is None or isinstance(buffer, UninitializedBuffer):
        return _Kept(buffer, None, None)
    return _Kept(buffer, None if buffer.is_inference() else buffer._version, buffer.detach().clone())


def _fits(copy: Tensor | None, buffer: Tensor | None) -> bool:
    """Return True if one can be copied into the other."""
    if copy is None or buffer is None:
        return copy is buffer
    return copy.shape == buffer.shape and copy.dtype is buffer.dtype and buffer.layout is torch.strided


def _restore(buffers: dict[str, Any], name: str, kept: _Kept) -> None:
    buffer = kept.buffer
    if kept.copy is None:
        buffers[name] = buffer
    elif _fits(kept.copy, buffer):
        buffers[name] = buffer
        buffer.detach().copy_(kept.copy)  # type: ignore[union-attr]  # it fits
    else:
        buffers[name] = kept.copy.clone()


def _choose(mask: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Copy the second of each pair into the first where `mask` is 1.0, in few kernels and without a look at it."""
    now = torch.cat([buffer.reshape(-1) for buffer, _ in pairs])
    before = torch.cat([copy.reshape(-1) for _, copy in pairs])
    buffers = [buffer for buffer, _ in pairs]
    chosen = torch.split(torch.where(mask > 0.0, before, now), [buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(chosen, buffers, strict=True)])
