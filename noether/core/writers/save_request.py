"""What the hooks of one boundary ask to save, put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from noether.core.writers.manifest import WEIGHTS, NamedStep

if TYPE_CHECKING:
    from noether.core.writers.background import BackgroundSave

LAST = "last"
"""The name of the step that a run ends with, whatever ends it."""


@dataclass(slots=True)
class SaveRequest:
    """What the hooks of one boundary have asked for, together.

    Attributes:
        weights: Whether the step holds the model's weights.
        optimizer: Whether it holds the optimizer's state.
        names: Names that the step gets, each with the file whose weights it stands for.
        model_names: Parts of a composite to save; None for all.
        frozen_weights: Whether parameters that do not train are saved too.
        owners: Callbacks whose files are wanted; a whole save holds those of all.
    """

    weights: bool = False
    optimizer: bool = False
    names: dict[str, str] = field(default_factory=dict)
    model_names: set[str] | None = field(default_factory=set)
    frozen_weights: bool = False
    owners: set[str] = field(default_factory=set)

    @classmethod
    def whole(cls) -> SaveRequest:
        """Return the request for all that a run needs to go on."""
        return cls(weights=True, optimizer=True, model_names=None, frozen_weights=True)

    @property
    def holds_whole_model(self) -> bool:
        """Whether the step holds all of the model's weights."""
        return self.weights and self.frozen_weights and self.model_names is None

    @property
    def is_whole(self) -> bool:
        """Whether a run can go on from it."""
        return self.holds_whole_model and self.optimizer

    @property
    def is_last(self) -> bool:
        """Whether it is that of the end of the run, after which no other one comes."""
        return LAST in self.names

    def add_parts(
        self, *, weights: bool, optimizer: bool, model_names: Iterable[str] | None, frozen_weights: bool
    ) -> None:
        """Widen the request; None as `model_names` asks for all parts of the model."""
        self.optimizer |= optimizer
        if not weights:
            return
        self.weights = True
        self.frozen_weights |= frozen_weights
        if model_names is None or self.model_names is None:
            self.model_names = None
        else:
            self.model_names |= set(model_names)

    def add_files(self, owner: str) -> None:
        """Ask for the files of a callback."""
        self.owners.add(owner)

    def add_name(self, name: str, weights: str = WEIGHTS) -> None:
        """Give the step a name that stands for the weights in one of its files."""
        self.names[name] = weights

    def named(self, update: int) -> dict[str, NamedStep]:
        """Return what the names stand for once the step of an update is there."""
        return {name: NamedStep(update, weights) for name, weights in self.names.items()}

    def include(self, earlier: SaveRequest) -> None:
        """Widen the request by one that was made for the same update before."""
        self.add_parts(
            weights=earlier.weights,
            optimizer=earlier.optimizer,
            model_names=earlier.model_names,
            frozen_weights=earlier.frozen_weights,
        )
        self.owners |= earlier.owners
        self.names = {**earlier.names, **self.names}


class SaveQueue:
    """The request of the boundary to come, and the save in flight; shared by a checkpoint writer and its views.

    Attributes:
        pending: What has been asked for; None where nothing was.
        in_flight: The save that is being written while training goes on, until it is settled; None where there is none.
        refusal: Why nothing can be asked for now; None where it can.
    """

    __slots__ = ("in_flight", "pending", "refusal")

    def __init__(self) -> None:
        self.pending: SaveRequest | None = None
        self.in_flight: BackgroundSave | None = None
        self.refusal: str | None = None

    def request(self) -> SaveRequest:
        """Return the request to widen."""
        if self.pending is None:
            self.pending = SaveRequest()
        return self.pending
