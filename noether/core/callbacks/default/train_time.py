"""`train-time`: where the time of an update goes."""

from __future__ import annotations

from typing import Any

from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.schemas.callbacks import CallBackBaseConfig


class TrainTimeCallback(PeriodicCallback):
    """Logs the mean seconds of each part of an update since the last time, as `profiling/{part}`.

    The parts are `data_time`, `forward_time`, `backward_time` and `update_time`. On an accelerator they measure the
    host, which runs ahead of the device.

    Args:
        callback_config: The interval.
        **kwargs: What `PeriodicCallback` takes.
    """

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._seconds: dict[str, float] = {}
        self._updates = 0

    def track_after_update_step(self, *, times: dict[str, float], **_: Any) -> None:
        """Add up the times of one update."""
        seconds = self._seconds
        for part, elapsed in times.items():
            seconds[part] = seconds.get(part, 0.0) + elapsed
        self._updates += 1

    def periodic_callback(self, **_: Any) -> None:
        """Log the means and start anew."""
        for part, seconds in self._seconds.items():
            self.writer.add_scalar(f"profiling/{part}", seconds / self._updates)
        self._seconds.clear()
        self._updates = 0
