"""`dataset-stats` and `param-count`: sizes of the data sets and of the model, logged once before training."""

from __future__ import annotations

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.base import OneShotCallback
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
        self.writer.add_scalar("model/parameters", total)
        self.writer.add_scalar("model/trainable_parameters", trainable)
