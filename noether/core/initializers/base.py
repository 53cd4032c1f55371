"""InitializerBase: load weights, and the progress of a run for a resume, before training begins."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar
from weakref import WeakKeyDictionary

from noether.config.components import InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer

__all__ = ["InitializerBase", "InitializerConfig"]


class InitializerBase(ABC):
    """Base class of initializers.

    A spec names an initializer as `[initializer]` or as `initializer` under `[trainer]`; both mean the same.

    Args:
        initializer_config: Source of the state.

    Attributes:
        continues_a_run: True if it restores more than weights. It is then called after optimizers and callbacks are
            built; any other one before, so that callbacks that copy the weights copy the loaded ones.
    """

    continues_a_run: ClassVar[bool] = False

    def __init__(self, initializer_config: InitializerConfig) -> None:
        self.initializer_config = initializer_config

    @property
    def logger(self) -> logging.Logger:
        """Logger of this initializer's class."""
        return logging.getLogger(f"noether.initializers.{type(self).__name__}")

    def check(self, trainer: RunningTrainer) -> None:  # noqa: B027  # optional on purpose
        """Check that the state can be loaded, before the run writes anything; optional for weights alone.

        Raises:
            CheckpointError: if it cannot.
        """

    @abstractmethod
    def initialize(self, trainer: RunningTrainer, model: ModelBase) -> None:
        """Load the state; called once, before training begins."""


class CalledOnce:
    """Initializers that a trainer has called: each once for a model, or the next training would undo the first."""

    def __init__(self) -> None:
        self._called: WeakKeyDictionary[ModelBase, set[InitializerBase]] = WeakKeyDictionary()

    def left_for(self, model: ModelBase, *initializers: InitializerBase | None) -> list[InitializerBase]:
        """Return the initializers that were not called for a model yet; None stands for no initializer."""
        called = self._called.get(model, set())
        return [found for found in dict.fromkeys(initializers) if found is not None and found not in called]

    def call(self, initializer: InitializerBase, trainer: RunningTrainer, model: ModelBase) -> None:
        """Call an initializer, unless it was called for this model before."""
        for found in self.left_for(model, initializer):
            found.initialize(trainer, model)
            self._called.setdefault(model, set()).add(found)
