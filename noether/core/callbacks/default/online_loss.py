"""`online-loss`: mean training loss over an interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from operator import is_
from typing import Any, TypeAlias

import torch
from torch import Tensor

from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import MetricFacts
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.callbacks.tracked import HOLD, AppliedSteps, beside, precise, summed, weighted
from noether.metrics.values import read_scalars

_Losses: TypeAlias = tuple[dict[str, Tensor], Mapping[str, float | Tensor | None] | None]
"""Losses of an accumulation step, with their weights if steps weigh differently."""

ONLINE = "loss/online/"


def _suffix(config: CallBackBaseConfig) -> str:
    """Return the end of the metric keys: a default callback's config has no id, those of the user have one."""
    return f"/{config.id}" if config.id else ""


class OnlineLossCallback(PeriodicCallback):
    """Log each loss, averaged over all accumulation steps since it was last logged, as `loss/online/{name}`.

    Every run has one, whose interval is `track_every_n_*` of the trainer. Another one adds its id to the keys:
    `loss/online/{name}/{id}`.

    Losses are added up on their device, so nothing waits for the device until they are logged. Updates that were not
    applied do not count. Accumulation steps weigh the same, unless their losses say how many values they average.

    ```toml
    [[trainer.callbacks]]
    kind = "online-loss"
    every_n_epochs = 1
    ```
    """

    calls_model = False
    draws_in_rounds = False

    def __init__(self, callback_config: CallBackBaseConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self._suffix = _suffix(callback_config)
        self._steps: AppliedSteps[_Losses] = AppliedSteps()
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, float] = defaultdict(int)
        self._unread: dict[str, float | Tensor] = {}  # counts that are still on the device

    @classmethod
    def produced_metrics(cls, config: CallBackBaseConfig, facts: MetricFacts) -> tuple[str, ...]:
        """Return the keys that it logs."""
        return tuple(f"{ONLINE}{name}{_suffix(config)}" for name in facts.loss_patterns)

    def track_after_accumulation_step(
        self, *, losses: dict[str, Tensor], accumulation_steps: int, accumulation_step: int, **_: Any
    ) -> None:
        """Hold the losses of one accumulation step."""
        self._steps.add(
            (losses, self.trainer.loss_weights),
            accumulation_steps=accumulation_steps,
            accumulation_step=accumulation_step,
            applied=self.trainer.verdict,
        )
        if self._steps.held >= HOLD:
            self._fold()

    def _fold(self) -> None:
        """Add up the held losses by name, without waiting for the device; not every accumulation step has each loss."""
        steps = self._steps.take()
        held = [losses for (losses, weights), applied in steps if weights is None and applied is None]
        names = dict.fromkeys(chain.from_iterable(held))
        plain = {name: [losses[name] for losses in held if name in losses] for name in names}
        others: dict[str, list[tuple[Tensor, float | Tensor, Tensor | None]]] = {}
        for (losses, weights), applied in steps:
            for name in () if weights is None and applied is None else losses:
                if weights is None or name in weights:
                    others.setdefault(name, []).append((losses[name], _weight(name, weights), applied))
        added: tuple[list[Tensor], float | Tensor] | None = None
        for name, values in plain.items():
            if added is None or len(values) != len(added[0]) or not all(map(is_, values, added[0])):
                added = values, summed(values)
            self._add(name, added[1])  # the only loss of a trainer is its total as well, and is added up once
            self._counts[name] += len(values)
        for name, values_weighted in others.items():
            self._add_weighted(name, values_weighted)

    def _add_weighted(self, name: str, steps: list[tuple[Tensor, float | Tensor, Tensor | None]]) -> None:
        values = precise(torch.stack([value for value, _, _ in steps]))
        weights = torch.stack([beside(values, weight) for _, weight, _ in steps])
        applied = torch.stack([beside(values, 1.0 if flag is None else flag) for _, _, flag in steps])
        self._add(name, weighted(values, weights * applied).sum())
        self._unread[name] = self._unread.get(name, 0.0) + (weights * applied).sum()

    def _add(self, name: str, total: float | Tensor) -> None:
        self._sums[name] = self._sums[name] + total if name in self._sums else total

    def _read_counts(self) -> None:
        """Read the counts of masked updates with one copy to the host; forget losses that no applied update had."""
        read_scalars(self._unread)
        for name, count in self._unread.items():
            self._counts[name] += float(count)
            if not self._counts[name]:
                del self._counts[name], self._sums[name]
        self._unread.clear()

    def periodic_callback(self, **_: Any) -> None:
        """Log the means and start a new interval; only the device may know how many losses there were of a name."""
        self._fold()
        counts: dict[str, float | Tensor] = {
            name: self._counts[name] + self._unread.get(name, 0.0) for name in self._sums
        }
        means = {name: total / counts[name] for name, total in self._sums.items()}
        if means and "total" not in means:  # its parts have counts of their own
            parts = torch.stack(list(means.values()))  # type: ignore[arg-type]  # a loss without a count has a total
            known = torch.stack([beside(parts, count) for count in counts.values()])
            means = {"total": parts.where(known > 0, 0.0).sum(), **means}
            counts["total"] = known.sum() if self._unread else 1.0
        for name, mean in means.items():
            count = counts[name]
            if isinstance(count, Tensor):
                self.writer.add_mean(f"{ONLINE}{name}{self._suffix}", mean, count)
            else:
                self.writer.add_scalar(f"{ONLINE}{name}{self._suffix}", mean)
        self._sums.clear()
        self._counts.clear()
        self._unread.clear()

    def state_dict(self) -> dict[str, Any] | None:
        """Return the sums of the current interval."""
        self._fold()
        if self._unread:
            self._read_counts()
        if not self._sums:
            return None
        # Each of its own: a file holds a tensor of two names once, and a resumed interval has two.
        sums = {
            name: total.clone() if isinstance(total, Tensor) else torch.tensor(total, dtype=torch.float64)
            for name, total in self._sums.items()
        }
        return {"sums": sums, "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the sums of the current interval."""
        self._sums = dict(state_dict["sums"])
        self._counts = defaultdict(int, state_dict["counts"])


def _weight(name: str, weights: Mapping[str, float | Tensor | None] | None) -> float | Tensor:
    """Return the weight of a loss; all accumulation steps of a sum weigh the same."""
    weight = None if weights is None else weights[name]
    return 1.0 if weight is None else weight
