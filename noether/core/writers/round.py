"""What callbacks have logged since the last boundary."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor


class Round:
    """The metrics of the boundary to come; shared by a log writer and all views of it.

    Attributes:
        scalars: Metrics by whole key; tensors stay on their device until somebody reads them.
        nonscalars: Arrays, histograms and tables by whole key.
        printed: Which metrics are to be printed too: through which logger, in which format.
        has_values: Whether anything was added; an attribute, because the loop asks at every update.
    """

    __slots__ = ("has_values", "nonscalars", "printed", "scalars")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.scalars: dict[str, float | Tensor] = {}
        self.nonscalars: dict[str, Any] = {}
        self.printed: dict[str, tuple[logging.Logger, str]] = {}
        self.has_values = False
