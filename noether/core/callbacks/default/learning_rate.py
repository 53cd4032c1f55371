"""`lr`: the learning rate of each optimizer."""

from __future__ import annotations

from typing import Any

from noether.core.callbacks.periodic import PeriodicCallback


class LearningRateCallback(PeriodicCallback):
    """Logs the rate that the last update was made with, as `optim/lr`, or `optim/lr/{part}` in a composite."""

    def periodic_callback(self, **_: Any) -> None:
        """Log the current rates."""
        optimizers = self.model.optimizers()
        for name, optimizer in optimizers.items():
            self.writer.add_scalar("optim/lr" if len(optimizers) == 1 else f"optim/lr/{name}", optimizer.lr)
            if optimizer.last_grad_norm is not None:
                key = "optim/grad_norm" if len(optimizers) == 1 else f"optim/grad_norm/{name}"
                self.writer.add_scalar(key, optimizer.last_grad_norm)
