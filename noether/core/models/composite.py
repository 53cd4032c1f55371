"""CompositeModel: named submodels, each with an optimizer of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.core.models.build import AdaptedModule, construct_model
from noether.errors import SpecError
from noether.optim.model_optimizer import ModelOptimizer


class CompositeModel(ModelBase):
    """A model made of models; subclasses say how they are called together in `forward`.

    ```python
    class AutoEncoderConfig(ModelBaseConfig):
        encoder: Annotated[Any, Discriminated("model")]
        decoder: Annotated[Any, Discriminated("model")]


    class AutoEncoder(CompositeModel):
        def __init__(self, model_config: AutoEncoderConfig):
            super().__init__(model_config, parts={"encoder": model_config.encoder, "decoder": model_config.decoder})

        def forward(self, x):
            return self.decoder(code=self.encoder(x=x)["code"])
    ```

    Each part's optimizer is named in its own table, `[model.encoder.optimizer]`; that of `[model]` trains the parts
    that name none.

    Args:
        model_config: Settings of the composite.
        parts: The submodels by name, or the configs to build them from; each becomes an attribute of that name.
        name: How metrics and checkpoints call this model.
    """

    def __init__(
        self,
        model_config: ModelBaseConfig | None = None,
        *,
        parts: Mapping[str, ModelBase | ModelBaseConfig],
        name: str = "model",
    ) -> None:
        super().__init__(model_config, name=name)
        self._part_names = tuple(parts)
        for part_name, given in parts.items():
            part = construct_model(given) if isinstance(given, ModelBaseConfig) else given
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

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """Name parameters as checkpoints do, without the wrappers around parts that are plain modules."""
        wrappers = [f"{name}." for name, module in self.named_modules() if isinstance(module, AdaptedModule)]
        for name, parameter in super().named_parameters(*args, **kwargs):
            for start in wrappers:
                name = name.replace(f"{start}module.", start, 1) if name.startswith(f"{start}module.") else name
            yield name, parameter

    def freeze(self) -> Self:
        """Freeze what each part's config says, then what the composite's own does."""
        for part in self.submodels.values():
            part.freeze()
        return super().freeze()

    def initialize_optimizer(self, *, total_updates: int, updates_per_epoch: int) -> None:
        """Build the optimizer of every part that trains.

        Raises:
            SpecError: A part names no optimizer and the composite has none for it, or a parameter would be trained by
                no optimizer or by two.
        """
        self._check_owners()
        for part in self.submodels.values():
            part.optimizer_config = part.optimizer_config or self.optimizer_config
            part.initialize_optimizer(total_updates=total_updates, updates_per_epoch=updates_per_epoch)

    def _check_owners(self) -> None:
        """Refuse parameters of the composite itself, which no optimizer would train, and those that parts share."""
        trained = [parameter for part in self.submodels.values() for parameter in part.parameters()]
        owners = Counter(id(parameter) for parameter in trained)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and owners[id(parameter)] != 1:
                count = owners[id(parameter)]
                found = f"belongs to {count} parts" if count else "belongs to no part"
                raise SpecError(
                    f"the parameter '{name}' of the composite '{self.name}' {found}, and parts are what is trained",
                    hint=f"let exactly one of the parts {', '.join(self._part_names)} hold it, or freeze it",
                )

    def optimizers(self) -> dict[str, ModelOptimizer]:
        """Return the parts' optimizers by part name, those of a nested composite as `part.inner`."""
        return {
            f"{name}.{inner}" if isinstance(part, CompositeModel) else name: optimizer
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
