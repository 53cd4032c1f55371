"""Precision: autocast and gradient scaler of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

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
    """Autocast and gradient scaler for a device and a number format; float32 needs neither.

    Args:
        name: As in the spec: `fp32`, `bf16`, `fp16` or their long forms.
        device: Device of the forward pass.

    Raises:
        SpecError: if the device does not support the format.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self.device_type = device.type
        self.dtype = _DTYPES[name]
        if self.dtype is not None and not _supported(self.dtype, device):
            raise SpecError(
                f"unsupported precision: found {name!r}, expected one that {device} supports",
                hint='set precision = "fp32", or use another device',
            )
        self.scaler = torch.amp.GradScaler(device.type) if self.dtype is torch.float16 else None

    @property
    def grad_scale(self) -> float | Tensor | None:
        """Scale of the gradients, on the device once there was an update; None without a scaler."""
        if self.scaler is None:
            return None
        scale = self.scaler._get_scale_async()  # `get_scale` would wait for the device
        return float(self.scaler.get_scale()) if scale is None else scale

    def forget(self) -> None:
        """Forget which optimizers of an unfinished update have unscaled gradients; the scale stays."""
        if self.scaler is not None:
            state, self.scaler = self.scaler.state_dict(), torch.amp.GradScaler(self.device_type)
            self.scaler.load_state_dict(state)

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which the forward pass runs in this format."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, dtype=self.dtype)


def _supported(dtype: torch.dtype, device: torch.device) -> bool:
    if not torch.amp.is_autocast_available(device.type):
        return False
    return not (device.type == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported())
