"""What a run has without asking: producers of metrics before the user's callbacks, reporters after them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import TypeAdapter

from noether.config.components import CallBackBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.callbacks.base import CallbackBase
from noether.training.trainers.config import BaseTrainerConfig

PRODUCERS = ("online-loss", "lr")
"""Their metrics may be read by the user's callbacks, so they come first."""
TRACKED = ("train-time", "peak-memory", "eta")
ONE_SHOT = ("dataset-stats", "param-count")

_CALLBACK: TypeAdapter[CallBackBaseConfig] = TypeAdapter(Annotated[Any, Discriminated("callback")])
_LOG_PARTS, _TRACK_PARTS = 100, 500  # without intervals in the spec: every 1 % and every 0.2 % of the run


def is_producer(callback: CallbackBase) -> bool:
    """Return whether a default callback logs metrics that the user's may read."""
    entry = callback.component.entry if callback.component is not None else None
    return entry is not None and entry.is_built_in and entry.name in PRODUCERS


def default_intervals(config: BaseTrainerConfig[Any], end_update: int | None) -> dict[str, dict[str, int]]:
    """Return the interval of progress (`log`) and that of metrics (`track`), as fields of a callback config.

    Without the length of the run, `end_update`, an interval that depends on it is left out.
    """
    intervals = {}
    for verb, parts in (("log", _LOG_PARTS), ("track", _TRACK_PARTS)):
        given = {
            f"every_n_{unit}": getattr(config, f"{verb}_every_n_{unit}") for unit in ("epochs", "updates", "samples")
        }
        given = {name: value for name, value in given.items() if value is not None}
        if not given and end_update is not None:
            given = {"every_n_updates": max(end_update // parts, 1)}
        intervals[verb] = given
    return intervals


def default_configs(config: BaseTrainerConfig[Any], intervals: dict[str, dict[str, int]]) -> list[CallBackBaseConfig]:
    """Return the configs of the default callbacks, producers first; they are found like anybody's."""
    tables: list[dict[str, Any]] = [{"kind": kind, **intervals["track"]} for kind in PRODUCERS]
    tables += [{"kind": kind} for kind in ONE_SHOT]
    tables += [{"kind": "progress", **intervals["log"]}]
    tables += [{"kind": kind, **intervals["track"]} for kind in TRACKED]
    if config.monitor_training_stability:
        interval = {"every_n_updates": config.monitor_interval} if config.monitor_interval else intervals["track"]
        tables.append({"kind": "training-stability", **interval})
    return [_CALLBACK.validate_python(table) for table in tables]
