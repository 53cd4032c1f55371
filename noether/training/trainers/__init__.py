"""Trainers: the base class with the loop behind it, and the generic one for weighted losses by field.

Each is imported when it is first used: the configs need no torch, and describing a spec needs only those.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether.training.trainers.base import BaseTrainer as BaseTrainer
    from noether.training.trainers.config import BaseTrainerConfig as BaseTrainerConfig
    from noether.training.trainers.types import Counted as Counted
    from noether.training.trainers.types import LossResult as LossResult
    from noether.training.trainers.types import TrainerResult as TrainerResult
    from noether.training.trainers.weighted_loss import WeightedLossTrainer as WeightedLossTrainer
    from noether.training.trainers.weighted_loss import WeightedLossTrainerConfig as WeightedLossTrainerConfig

_HOMES = {
    "BaseTrainer": "base",
    "BaseTrainerConfig": "config",
    "Counted": "types",
    "LossResult": "types",
    "TrainerResult": "types",
    "WeightedLossTrainer": "weighted_loss",
    "WeightedLossTrainerConfig": "weighted_loss",
}
__all__ = sorted(_HOMES)  # the names above


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
