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

    The buffers that the first update changes, such as running statistics, are copied at every update, those of one type
    at once. Another one is copied again only if it has changed since: it is another tensor, or has another version
    counter. (`buffer.data.mul_(0.9)` changes no counter.) So tables that never change are copied once.

    Args:
        *models: The model, and the module that wraps it.
    """

    def __init__(self, *models: nn.Module) -> None:
        self._models = models
        self._owners: dict[int, dict[str, Tensor | None]] = {}
        self._kept: dict[tuple[int, str], _Kept] = {}
        self._groups: list[_Group] = []
        self._grouped: set[tuple[int, str]] = set()
        self._updates = 0
        self._is_settled = False

    @torch.no_grad()
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
        for owner, buffers in self._owners.items():
            for name, buffer in buffers.items():
                key = (owner, name)
                kept = self._kept.get(key)
                if kept is None or kept.buffer is not buffer or not _fits(kept.copy, buffer):
                    self._kept[key] = _kept(buffer)
                    self._ungroup(key)
                elif (
                    key not in self._grouped
                    and buffer is not None
                    and kept.copy is not None
                    and kept.version is not None
                    and kept.version != buffer._version
                ):
                    kept.version = buffer._version
                    kept.copy.copy_(buffer)
        for group in self._groups:
            group.keep()
        return bool(self._owners) or self._updates < 2

    @torch.no_grad()
    def put_back(self, mask: Tensor | None = None) -> None:
        """Give the buffers the values back that they had before the update.

        Args:
            mask: 1.0 or 0.0 on the device: put back, or leave alone; None to put back. It is read only if a buffer has
                another shape now.
        """
        self._settle()
        others = self._changed()
        if mask is not None and any(not _fits(kept.copy, buffers[name]) for buffers, name, kept in others):
            if not bool(mask):
                return
            mask = None
        for group in self._groups:
            group.put_back(mask)
        for buffers, name, kept in others:
            now = buffers[name]
            if mask is None or now is None or kept.copy is None:
                _restore(buffers, name, kept)
            else:
                now.copy_(torch.where(mask > 0.0, kept.copy, now))

    def _changed(self) -> list[tuple[dict[str, Tensor | None], str, _Kept]]:
        """Return the changed buffers that are in no group."""
        found = []
        for owner, buffers in self._owners.items():
            for name, now in buffers.items():
                kept = self._kept.get((owner, name)) or _Kept(None, None, None)
                is_same = kept.buffer is now and _fits(kept.copy, now)
                if is_same and (owner, name) in self._grouped:
                    continue
                if not is_same or (now is not None and kept.version is not None and kept.version != now._version):
                    found.append((buffers, name, kept))
                    self._ungroup((owner, name))
        return found

    def _ungroup(self, key: tuple[int, str]) -> None:
        """Keep a buffer by itself, because another tensor or shape has taken its place."""
        if key in self._grouped:
            self._grouped.discard(key)
            for group in self._groups:
                group.leave(key)

    def _settle(self) -> None:
        """Find the buffers that the first update has changed, and group them; waits for the device once."""
        if self._is_settled or not self._updates:
            return
        self._is_settled = True
        members: dict[tuple[torch.dtype, torch.device], dict[tuple[int, str], _Kept]] = {}
        for owner, buffers in self._owners.items():
            for name, now in buffers.items():
                kept = self._kept.get((owner, name))
                if kept is None or kept.buffer is not now or kept.copy is None or now is None:
                    continue
                if _fits(kept.copy, now) and not torch.equal(kept.copy, now):
                    members.setdefault((now.dtype, now.device), {})[owner, name] = kept
        self._groups = [_Group(group) for group in members.values()]
        self._grouped = {key for group in members.values() for key in group}


class _Group:
    """Changing buffers of one type on one device, copied with few kernels.

    Args:
        members: The buffers, which have a copy each; it becomes a part of one tensor.
    """

    def __init__(self, members: dict[tuple[int, str], _Kept]) -> None:
        self._members = members
        self._arrange()

    def _arrange(self) -> None:
        kept = list(self._members.values())
        self._buffers = [one.buffer for one in kept if one.buffer is not None]
        if not kept:
            return
        self._before = torch.cat([one.copy.reshape(-1) for one in kept if one.copy is not None])
        self._now = torch.empty_like(self._before)
        self._copies, self._chosen = self._views(self._before), self._views(self._now)
        for one, copy in zip(kept, self._copies, strict=True):
            one.copy = copy

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = torch.split(flat, [buffer.numel() for buffer in self._buffers])
        return [part.view(buffer.shape) for part, buffer in zip(parts, self._buffers, strict=True)]

    def leave(self, key: tuple[int, str]) -> None:
        """Let a buffer out."""
        if self._members.pop(key, None) is not None:
            self._arrange()

    def keep(self) -> None:
        """Copy the buffers."""
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)

    def put_back(self, mask: Tensor | None) -> None:
        """Copy the buffers back, where `mask` is 1.0 and without a look at it."""
        if not self._buffers:
            return
        if mask is None:
            torch._foreach_copy_(self._buffers, self._copies)
            return
        torch.cat([buffer.reshape(-1) for buffer in self._buffers], out=self._now)
        torch.where(mask > 0.0, self._before, self._now, out=self._now)
        torch._foreach_copy_(self._buffers, self._chosen)


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
