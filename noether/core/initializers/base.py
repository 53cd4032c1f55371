"""InitializerBase: puts weights, and for a resume progress too, in place before training begins."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar

from noether.config.components import InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer

__all__ = ["InitializerBase", "InitializerConfig"]


class InitializerBase(ABC):
    """Base class of initializers.

    A spec names one as `[initializer]` or as `initializer` under `[trainer]`; both mean the same.

    Args:
        initializer_config: Where to take the state from.

    Attributes:
        continues_a_run: Whether it restores more than weights. Such a one is called when optimizers and callbacks are
            built; any other one before, so that callbacks which copy the weights copy the right ones.
    """

    continues_a_run: ClassVar[bool] = False

    def __init__(self, initializer_config: InitializerConfig) -> None:
        self.initializer_config = initializer_config

    @property
    def logger(self) -> logging.Logger:
        """Logger of this initializer's class."""
        return logging.getLogger(f"noether.initializers.{type(self).__name__}")

    def check(self, trainer: RunningTrainer) -> None:  # noqa: B027  # optional on purpose
        """Find out whether the state can be had, before the run has left a trace; one of weights alone may leave it.

        Raises:
            CheckpointError: It cannot.
        """

    @abstractmethod
    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Put the state in place; called once, before training begins."""
