"""Parameters as views of one buffer, so that what happens to all of them is one operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from noether.errors import SpecError, TrainingError

_ALIGNMENT = 64  # bytes; what torch's own allocator gives, so that kernels find the same alignment as before


class FlatParameters:
    """Moves parameters into one buffer; their values stay as they are.

    Args:
        parameters: All on one device and of one type.

    Attributes:
        buffer: One-dimensional; between the parameters are zeros for alignment.

    Raises:
        SpecError: The parameters are of several types or devices, or of half precision.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
        if len(kinds) != 1 or any(dtype.itemsize < torch.float32.itemsize for dtype, _ in kinds):
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none"
            raise SpecError(
                f"flat_parameters needs parameters of one type of 32 or 64 bits on one device, found {found}",
                hint="leave flat_parameters out",
            )
        ((dtype, device),) = kinds
        unit = _ALIGNMENT // dtype.itemsize
        self._parameters = list(parameters)
        self._is_new = True
        self._starts = [0]
        for parameter in parameters:
            self._starts.append(self._starts[-1] + -(-parameter.numel() // unit) * unit)
        self.buffer = torch.zeros(self._starts[-1], dtype=dtype, device=device)
        for parameter, view in zip(parameters, self.views_of(self.buffer), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def views_of(self, buffer: Tensor) -> list[Tensor]:
        """Return the parameters' places in a buffer of the same layout."""
        return [
            buffer[start : start + parameter.numel()].view(parameter.shape)
            for parameter, start in zip(self._parameters, self._starts, strict=False)
        ]

    def check(self) -> None:
        """Make sure that the parameters still live in the buffer.

        All of them the first time, because a second buffer may have taken some; then the last one stands for them.

        Raises:
            TrainingError: Somebody has given them other storage.
        """
        first, last = self.buffer.data_ptr(), len(self._parameters) - 1
        for index in range(last + 1) if self._is_new else (last,):
            if self._parameters[index].data_ptr() != first + self._starts[index] * self.buffer.itemsize:
                raise TrainingError(
                    "the parameters were moved out of the one buffer that flat_parameters keeps them in",
                    hint="leave flat_parameters out, or set it for one `ema` without overlapping model_paths only, and "
                    "keep what assigns new parameters out of the run",
                )
        self._is_new = False
