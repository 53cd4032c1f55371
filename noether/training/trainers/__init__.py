"""Trainers: the base class with the loop behind it, and the generic one for weighted losses by field."""

from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.config import BaseTrainerConfig
from noether.training.trainers.types import LossResult, TrainerResult
from noether.training.trainers.weighted_loss import WeightedLossTrainer, WeightedLossTrainerConfig

__all__ = [
    "BaseTrainer",
    "BaseTrainerConfig",
    "LossResult",
    "TrainerResult",
    "WeightedLossTrainer",
    "WeightedLossTrainerConfig",
]
