"""`lr`: learning rate and gradient norm of each optimizer."""

from __future__ import annotations

from typing import Any

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicCallback


class LearningRateCallback(PeriodicCallback):
    """Log the learning rate of the last update as `optim/lr`, or as `optim/lr/{part}` for a composite model.

    ```toml
    [[trainer.callbacks]]
    kind = "lr"
    every_n_updates = 50
    ```
    """

    calls_model = False
    draws_in_rounds = False

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return ("optim/lr", "optim/lr/*", "optim/grad_norm", "optim/grad_norm/*")

    def periodic_callback(self, **_: Any) -> None:
        """Log learning rates and gradient norms."""
        optimizers = self.model.optimizers()
        for name, optimizer in optimizers.items():
            self.writer.add_scalar("optim/lr" if len(optimizers) == 1 else f"optim/lr/{name}", optimizer.lr)
            if optimizer.last_grad_norm is not None:
                key = "optim/grad_norm" if len(optimizers) == 1 else f"optim/grad_norm/{name}"
                self.writer.add_scalar(key, optimizer.last_grad_norm)
