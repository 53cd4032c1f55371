"""Double precision for sums over many updates or samples, on every device."""

from __future__ import annotations

from torch import Tensor


def precise(tensor: Tensor) -> Tensor:
    """Return the tensor in double precision: where it is, or on the CPU where its device (mps) has none."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()
