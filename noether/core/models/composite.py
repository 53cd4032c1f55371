"""CompositeModel: named submodels, each with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import nn

from noether.core.models.base import ModelBase
from noether.core.optim.model_optimizer import ModelOptimizer
from noether.core.schemas.models import ModelBaseConfig


class CompositeModel(ModelBase):
    """A model made of models; subclasses say how they are called together in `forward`.

    Args:
        model_config: Settings of the composite; its own `optimizer` is not used.
        parts: The submodels by name; each becomes an attribute of that name.
        name: How metrics and checkpoints call this model.
    """

    def __init__(
        self,
        model_config: ModelBaseConfig | None = None,
        *,
        parts: Mapping[str, ModelBase],
        name: str = "model",
    ) -> None:
        super().__init__(model_config, name=name)
        self._part_names = tuple(parts)
        for part_name, part in parts.items():
            part.name = part_name
            self.add_module(part_name, part)

    @property
    def submodels(self) -> dict[str, ModelBase]:
        """The parts by name."""
        parts: dict[str, ModelBase] = {}
        for name in self._part_names:
            part: nn.Module = self.get_submodule(name)
            assert isinstance(part, ModelBase)
            parts[name] = part
        return parts

    def freeze(self) -> Self:
        """Freeze what each part's config says, then what the composite's own does."""
        for part in self.submodels.values():
            part.freeze()
        return super().freeze()

    def initialize_optimizer(self, *, total_updates: int, updates_per_epoch: int) -> None:
        """Build the optimizer of every part that trains."""
        for part in self.submodels.values():
            part.initialize_optimizer(total_updates=total_updates, updates_per_epoch=updates_per_epoch)

    def optimizers(self) -> dict[str, ModelOptimizer]:
        """Return the parts' optimizers by part name, those of a nested composite as `part.inner`."""
        return {
            name if inner == name else f"{name}.{inner}": optimizer
            for name, part in self.submodels.items()
            for inner, optimizer in part.optimizers().items()
        }

    def optimizer_schedule_step(self, update: int) -> None:
        """Set learning rate and weight decay of every part."""
        for optimizer in self.optimizers().values():
            optimizer.schedule_step(update)

    def optimizer_step(self, grad_scaler: torch.amp.GradScaler | None = None) -> None:
        """Clip and apply the gradients of every part."""
        for optimizer in self.optimizers().values():
            optimizer.step(grad_scaler)

    def optimizer_zero_grad(self) -> None:
        """Release the gradients of every part."""
        for optimizer in self.optimizers().values():
            optimizer.zero_grad()
