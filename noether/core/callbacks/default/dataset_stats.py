"""`dataset-stats`: how large the data sets are."""

from __future__ import annotations

from typing import Any, ClassVar

from noether.core.callbacks.base import CallbackBase
from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.core.utils.training.counter import UpdateCounter
from noether.data.dataset import length_of


class DatasetStatsConfig(CallBackBaseConfig):
    """Settings of the `dataset-stats` callback."""

    needs_interval: ClassVar[bool] = False


class DatasetStatsCallback(CallbackBase):
    """Logs `data/{key}/samples` of every data set once, before training.

    Args:
        callback_config: Has nothing to set.
        **kwargs: What `CallbackBase` takes.
    """

    def __init__(self, callback_config: DatasetStatsConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.callback_config = callback_config

    def before_training(self, *, update_counter: UpdateCounter) -> None:
        """Count and log."""
        keys = self.data_container.keys()
        sizes = {key: length_of(self.data_container.get_dataset(key)) for key in keys}
        self.logger.info("data: %s", ", ".join(f"{key} {size:,} samples" for key, size in sizes.items()))
        for key, size in sizes.items():
            self.writer.add_scalar(f"data/{key}/samples", size)
