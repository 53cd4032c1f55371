"""The number format of the forward pass: autocast and the gradient scaler."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from noether.errors import SpecError

_DTYPES = {
    "float32": None,
    "fp32": None,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


class Precision:
    """Autocast for a device and a number format; float32 is no context at all.

    Args:
        name: As in the spec: `fp32`, `bf16`, `fp16` or their long forms.
        device: Where the forward pass runs.

    Raises:
        SpecError: The device has no such format.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device_type = device.type
        self.dtype = _DTYPES[name]
        if self.dtype is not None and not _supported(self.dtype, device):
            raise SpecError(
                f"precision = {name!r} is not supported on {device}",
                hint='use precision = "fp32", or another device',
            )
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None

    @property
    def is_mixed(self) -> bool:
        """Whether the forward pass needs a context."""
        return self.dtype is not None

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which the forward pass runs in this format."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, dtype=self.dtype)


def _supported(dtype: torch.dtype, device: torch.device) -> bool:
    if not torch.amp.is_autocast_available(device.type):
        return False
    return not (device.type == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported())
