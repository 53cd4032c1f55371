"""A model and a stopwatch for the runs of `run.py`, which a spec names as `parts.Net` and `parts.Marks`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback


class Net(nn.Module):
    """Linear layers with GELU between them, and dropout and batch norm if they are asked for."""

    def __init__(self, inputs: int, hidden: list[int], outputs: int, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip([inputs, *hidden], hidden, strict=False):
            layers += [nn.Linear(before, width)]
            layers += [nn.BatchNorm1d(width)] if norm else []
            layers += [nn.GELU()]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.net = nn.Sequential(*layers, nn.Linear(hidden[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of a batch."""
        return self.net(x)


def synchronize() -> None:
    """Wait for the device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class MarksConfig(CallBackBaseConfig):
    """Config of `Marks`."""

    begin: int = Field(description="Update after which the watch starts.")
    end: int = Field(description="Update after which it stops.")
    to: str = Field(description="File for the seconds of an update.")
    refuses_waits: bool = Field(False, description="True to make an operation in between that waits an error.")


class Marks(PeriodicCallback):
    """Takes the time between two updates; it waits for the device at both, and never in between."""

    calls_model = False

    def __init__(self, callback_config: MarksConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.config = callback_config
        self.started = 0.0

    def periodic_callback(self, *, update_counter: Any, **_: Any) -> None:
        """Start or stop."""
        if update_counter.update == self.config.begin:
            synchronize()
            self._refuse("error")
            self.started = time.perf_counter()
        elif update_counter.update == self.config.end:
            self._refuse("default")
            host = time.perf_counter() - self.started
            synchronize()
            updates, seconds = self.config.end - self.config.begin, time.perf_counter() - self.started
            Path(self.config.to).write_text(json.dumps({"host": host / updates, "update": seconds / updates}))

    def _refuse(self, mode: str) -> None:
        if self.config.refuses_waits and torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(mode)
