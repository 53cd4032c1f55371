"""`online-loss`: the mean training loss since the last time it was logged."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.callbacks.precise import precise
from noether.core.schemas.callbacks import CallBackBaseConfig
from noether.core.schemas.metric_facts import MetricFacts, intervals_of

_FOLD = 256  # losses kept before they are added up, so that a long interval does not hold a tensor for each update


class OnlineLossCallback(PeriodicCallback):
    """Averages each loss over all accumulation steps of an interval, as `loss/online/{name}/{interval}`.

    Losses are kept as they come and added up on their device, so nothing waits for the device until they are logged.

    Args:
        callback_config: The interval.
        **kwargs: What `PeriodicCallback` takes.
    """

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._kept: list[dict[str, Tensor]] = []
        self._room = _FOLD
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        interval = intervals_of(config).short or "*"  # the default interval depends on the length of the run
        return tuple(f"loss/online/{name}/{interval}" for name in facts.loss_patterns)

    def track_after_accumulation_step(self, *, losses: dict[str, Tensor], **_: Any) -> None:
        """Keep the losses of one accumulation step."""
        self._kept.append(losses)
        self._room -= 1
        if not self._room:
            self._fold()

    def _fold(self) -> None:
        """Add up what was kept, by name; a loss may be missing in some steps."""
        for name in dict.fromkeys(chain.from_iterable(self._kept)):
            values = [losses[name] for losses in self._kept if name in losses]
            total = precise(torch.stack(values)).sum()  # a mean must not depend on how it was folded
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] += len(values)
        self._kept.clear()
        self._room = _FOLD

    def periodic_callback(self, **_: Any) -> None:
        """Log the means and start anew."""
        self._fold()
        for name, total in self._sums.items():
            self.writer.add_scalar(f"loss/online/{name}/{self.intervals.short}", total / self._counts[name])
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the sums of the interval that is under way."""
        self._fold()
        if not self._sums:
            return None
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the sums of an interval."""
        self._sums = dict(state_dict["sums"])
        self._counts = defaultdict(int, state_dict["counts"])
