"""InitializerBase: load weights, and the progress of a run for a resume, before training begins."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import ClassVar
from weakref import WeakKeyDictionary

from noether.config.components import InitializerConfig
from noether.core.models.base import ModelBase
from noether.core.protocols import RunningTrainer
from noether.errors import placed

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

    def check_and_load(
        self,
        trainer: RunningTrainer,
        model: ModelBase,
        of_run: InitializerBase | None,
        of_trainer: InitializerBase | None,
    ) -> None:
        """Check initializers, and call those that load weights alone; None stands for no initializer."""
        places: dict[InitializerBase | None, tuple[str, ...]] = {of_trainer: ("trainer", "initializer")}
        places[of_run] = ("initializer",)
        for initializer, place in reversed(places.items()):
            if initializer is not None and initializer not in self._called.get(model, ()):
                with placed(*place):
                    initializer.check(trainer)
                    if not initializer.continues_a_run:
                        self.call(trainer, model, initializer)

    def call(self, trainer: RunningTrainer, model: ModelBase, initializer: InitializerBase) -> None:
        """Call an initializer, unless it was called for this model before."""
        called = self._called.setdefault(model, set())
        if initializer not in called:
            initializer.initialize(trainer, model)
            called.add(initializer)
