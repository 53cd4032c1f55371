"""Copies of the tensors of a save, so that training can change them while they are written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from noether.core.writers.content import Content
from noether.core.writers.tensor_file import TensorFile


class Snapshot:
    """Memory for the tensors of one save, kept from one save to the next.

    It holds one copy of what is saved, in main memory. What was taken last is valid until the next is taken.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def take(self, files: Mapping[str, Content]) -> dict[str, Content]:
        """Return files of the same bytes that no later change of a tensor reaches.

        Args:
            files: As `encode_step` returns them; what is bytes already is kept as it is.
        """
        taken: dict[str, Content] = dict(files)
        sources: list[Tensor] = []
        targets: list[Tensor] = []
        for name, file in files.items():
            if isinstance(file, TensorFile):
                former = self._buffers.get(name, {})
                buffers = {key: _buffer_for(tensor, former.get(key)) for key, tensor in file.tensors.items()}
                self._buffers[name] = buffers
                sources += file.tensors.values()
                targets += buffers.values()
                taken[name] = TensorFile(buffers, file.header)
        _copy(sources, targets)
        return taken


def _buffer_for(tensor: Tensor, former: Tensor | None) -> Tensor:
    """Return memory that fits a tensor: that of the save before where it does."""
    if former is not None and former.shape == tensor.shape and former.dtype == tensor.dtype:
        return former
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)


def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    """Copy all tensors; those of a GPU at once, waited for in the end."""
    if not sources:
        return
    devices = {tensor.device for tensor in sources if tensor.is_cuda}
    torch._foreach_copy_(targets, sources, non_blocking=bool(devices))
    for device in devices:
        torch.cuda.synchronize(device)
