"""`dataset-stats`, `param-count`, `train-time` and `peak-memory`: sizes of a run, and the time and memory it takes."""

from __future__ import annotations

import math
import sys
from time import monotonic
from typing import Any

import torch

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.base import OneShotCallback
from noether.core.callbacks.periodic import PeriodicCallback
from noether.data.dataset import length_of
from noether.kernel.progress import UpdateCounter


class DatasetStatsCallback(OneShotCallback):
    """Log `data/{key}/samples` of every data set once, before training.

    ```toml
    [[trainer.callbacks]]
    kind = "dataset-stats"
    ```
    """

    calls_model = False

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return tuple(f"data/{key}/samples" for key in facts.dataset_keys)

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Log the number of samples of each data set."""
        keys = self.data_container.keys()
        sizes = {key: length_of(self.data_container.get_dataset(key)) for key in keys}
        self.logger.info("data: %s", ", ".join(f"{key} {size:,} samples" for key, size in sizes.items()))
        for key, size in sizes.items():
            self.writer.add_scalar(f"data/{key}/samples", size)


class ParameterCountCallback(OneShotCallback):
    """Log `model/parameters` and `model/trainable_parameters` once, before training.

    ```toml
    [[trainer.callbacks]]
    kind = "param-count"
    ```
    """

    calls_model = False

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return ("model/parameters", "model/trainable_parameters")

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Log the number of parameters."""
        parameters = list(self.model.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        total = sum(p.numel() for p in parameters)
        self.logger.info("model: %s parameters, %s trainable", f"{total:,}", f"{trainable:,}")
        self.writer.add_scalar("model/parameters", total)
        self.writer.add_scalar("model/trainable_parameters", trainable)


class TrainTimeCallback(PeriodicCallback):
    """Log the mean seconds of each part of an update over an interval, as `profiling/{part}`.

    The parts are `data_time`, `forward_time`, `backward_time` and `update_time`, and `checkpoint_wait` once training
    has waited for an asynchronous save. On an accelerator they measure the host, which runs ahead of the device. The
    trainer measures them in any case, so this callback adds no cost to an update.

    ```toml
    [[trainer.callbacks]]
    kind = "train-time"
    every_n_updates = 50
    ```

    Args:
        callback_config: The interval.
        **kwargs: Arguments of `PeriodicCallback`.
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._seconds: dict[str, float] = {}
        self._update = 0

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        parts = ("data_time", "forward_time", "backward_time", "update_time")
        return tuple(f"profiling/{part}" for part in parts)

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Remember the times before the first interval."""
        self._remember(update_counter)

    def _remember(self, update_counter: UpdateCounter) -> None:
        self._seconds = dict(self.trainer.seconds)
        self._update = update_counter.update

    def periodic_callback(self, *, update_counter: UpdateCounter, **_: Any) -> None:
        """Log the means and start a new interval."""
        updates, before = max(update_counter.update - self._update, 1), self._seconds
        for part, seconds in self.trainer.seconds.items():
            since = seconds - before[part] if part in before else seconds
            self.writer.add_scalar(f"profiling/{part}", since / updates)
        self._remember(update_counter)


_ASKED_AFTER = 0.05  # seconds; the kernel of some machines takes 40 µs to answer, as long as a small update
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere


class PeakMemoryCallback(PeriodicCallback):
    """Log `profiling/peak_memory_gib`: the peak of the device on an accelerator, of the process elsewhere, in GiB.

    ```toml
    [[trainer.callbacks]]
    kind = "peak-memory"
    every_n_epochs = 1
    ```
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._peak, self._asked_at = 0, -math.inf

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return ("profiling/peak_memory_gib",)

    def periodic_callback(self, **_: Any) -> None:
        """Log the peak memory; that of the process as it was at most 50 ms ago."""
        if self.trainer.device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self.trainer.device)
        elif (now := monotonic()) - self._asked_at > _ASKED_AFTER:
            import resource  # POSIX only

            self._peak, self._asked_at = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT, now
        self.writer.add_scalar("profiling/peak_memory_gib", self._peak / 2**30)
