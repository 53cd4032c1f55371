"""`train-time`: where the time of an update goes."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import Any

from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.schemas.callbacks import CallBackBaseConfig

_FOLD = 256  # updates kept before their times are added up: keeping is one call, adding up is one a part


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
        self._kept: list[dict[str, float]] = []
        self._room = _FOLD
        self._seconds: dict[str, float] = defaultdict(float)
        self._updates = 0

    def track_after_update_step(self, *, times: dict[str, float], **_: Any) -> None:
        """Keep the times of one update."""
        self._kept.append(times)
        self._room -= 1
        if not self._room:
            self._fold()

    def _fold(self) -> None:
        for part in dict.fromkeys(chain.from_iterable(self._kept)):
            self._seconds[part] += sum([times[part] for times in self._kept if part in times])
        self._updates += len(self._kept)
        self._kept.clear()
        self._room = _FOLD

    def periodic_callback(self, **_: Any) -> None:
        """Log the means and start anew."""
        self._fold()
        for part, seconds in self._seconds.items():
            self.writer.add_scalar(f"profiling/{part}", seconds / self._updates)
        self._seconds.clear()
        self._updates = 0
