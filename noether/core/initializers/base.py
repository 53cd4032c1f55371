"""InitializerBase: puts weights, and for a resume progress too, in place before training begins."""

from __future__ import annotations

from abc import ABC, abstractmethod

from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.core.schemas.initializers import InitializerConfig

__all__ = ["InitializerBase", "InitializerConfig"]


class InitializerBase(ABC):
    """Base class of initializers.

    Args:
        initializer_config: Where to take the state from.
    """

    def __init__(self, initializer_config: InitializerConfig) -> None:
        self.initializer_config = initializer_config

    @abstractmethod
    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Put the state in place; called once, before training begins."""
