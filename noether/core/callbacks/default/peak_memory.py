"""`peak-memory`: peak memory of the run so far."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicCallback

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere


class PeakMemoryCallback(PeriodicCallback):
    """Log `profiling/peak_memory_gib`: the peak of the device on an accelerator, of the process elsewhere, in GiB.

    ```toml
    [[trainer.callbacks]]
    kind = "peak-memory"
    every_n_epochs = 1
    ```
    """

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return ("profiling/peak_memory_gib",)

    def periodic_callback(self, **_: Any) -> None:
        """Log the peak memory."""
        if self.trainer.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.trainer.device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        self.writer.add_scalar("profiling/peak_memory_gib", peak / 2**30)
