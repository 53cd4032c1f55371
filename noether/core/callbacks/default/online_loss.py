"""`online-loss`: the mean training loss since the last time it was logged."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts, intervals_of
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.callbacks.precise import precise
from noether.metrics.values import read_scalars

_FOLD = 256  # losses kept before they are added up, so that a long interval does not hold a tensor for each update


class OnlineLossCallback(PeriodicCallback):
    """Averages each loss over all accumulation steps of an interval, as `loss/online/{name}/{interval}`.

    Losses are kept as they come and added up on their device, so nothing waits for the device until they are logged.
    Those of an update that was not applied do not count.

    ```toml
    [[trainer.callbacks]]
    kind = "online-loss"
    every_n_epochs = 1
    ```

    Args:
        callback_config: The interval.
        **kwargs: What `PeriodicCallback` takes.
    """

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._kept: list[dict[str, Tensor]] = []
        self._unsure: list[tuple[dict[str, Tensor], Tensor]] = []  # only the device knows whether they count
        self._held: list[dict[str, Tensor]] = []  # of the accumulation steps of an update that is under way
        self._room = _FOLD
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._unread: dict[str, float | Tensor] = {}  # counts that are still on the device

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        interval = intervals_of(config).short or "*"  # the default interval depends on the length of the run
        return tuple(f"loss/online/{name}/{interval}" for name in facts.loss_patterns)

    def track_after_accumulation_step(
        self, *, losses: dict[str, Tensor], accumulation_steps: int, accumulation_step: int, **_: Any
    ) -> None:
        """Keep the losses of one accumulation step."""
        if accumulation_steps > 1:
            self._hold_back(
                losses, is_first=accumulation_step == 0, is_last=accumulation_step + 1 == accumulation_steps
            )
        elif self.trainer.applied is None:
            self._kept.append(losses)
        else:
            self._unsure.append((losses, self.trainer.applied))
        self._room -= 1
        if self._room <= 0:
            self._fold()

    def _hold_back(self, losses: dict[str, Tensor], *, is_first: bool, is_last: bool) -> None:
        """Keep the losses of an update with its last step only, which says whether it was applied."""
        if is_first:
            self._held.clear()  # a last step that never came was one of an update that was not applied
        self._held.append(losses)
        if is_last:
            applied = self.trainer.applied
            if applied is None:
                self._kept += self._held
            else:
                self._unsure += [(held, applied) for held in self._held]
            self._held.clear()

    def _fold(self) -> None:
        """Add up what was kept, by name; a loss may be missing in some steps."""
        for name in dict.fromkeys(chain.from_iterable(self._kept)):
            values = [losses[name] for losses in self._kept if name in losses]
            total = precise(torch.stack(values)).sum()  # a mean must not depend on how it was folded
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._counts[name] += len(values)
        self._kept.clear()
        self._room = _FOLD
        if self._unsure:
            self._fold_unsure()

    def _fold_unsure(self) -> None:
        """Add up what counts for applied updates only, without asking the device which they are."""
        for name in dict.fromkeys(chain.from_iterable([losses for losses, _ in self._unsure])):
            kept = [(losses[name], applied) for losses, applied in self._unsure if name in losses]
            values, applied = (precise(torch.stack(column)) for column in zip(*kept, strict=True))
            total = torch.where(applied > 0.0, values, 0.0).sum()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._unread[name] = self._unread[name] + applied.sum() if name in self._unread else applied.sum()
        self._unsure.clear()

    def _read_counts(self) -> None:
        """Learn how many steps count, in one copy to the host; forget losses that no applied update had."""
        read_scalars(self._unread)
        for name, count in self._unread.items():
            self._counts[name] += int(count)
            if not self._counts[name]:
                del self._counts[name], self._sums[name]
        self._unread.clear()

    def periodic_callback(self, **_: Any) -> None:
        """Log the means and start anew."""
        self._fold()
        if self._unread:
            self._read_counts()
        for name, total in self._sums.items():
            self.writer.add_scalar(f"loss/online/{name}/{self.intervals.short}", total / self._counts[name])
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the sums of the interval that is under way."""
        self._fold()
        if self._unread:
            self._read_counts()
        if not self._sums:
            return None
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the sums of an interval."""
        self._sums = dict(state_dict["sums"])
        self._counts = defaultdict(int, state_dict["counts"])
