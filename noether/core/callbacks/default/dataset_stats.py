"""`dataset-stats`: sizes of the data sets."""

from __future__ import annotations

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.base import OneShotCallback
from noether.core.utils.training.counter import UpdateCounter
from noether.data.dataset import length_of


class DatasetStatsCallback(OneShotCallback):
    """Log `data/{key}/samples` of every data set once, before training.

    ```toml
    [[trainer.callbacks]]
    kind = "dataset-stats"
    ```
    """

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
