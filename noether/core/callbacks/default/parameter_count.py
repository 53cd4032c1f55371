"""`param-count`: number of parameters of the model."""

from __future__ import annotations

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.base import OneShotCallback
from noether.core.utils.training.counter import UpdateCounter


class ParameterCountCallback(OneShotCallback):
    """Log `model/parameters` and `model/trainable_parameters` once, before training.

    ```toml
    [[trainer.callbacks]]
    kind = "param-count"
    ```
    """

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
