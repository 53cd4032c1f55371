"""CompositeModel: named submodels, each with an optimizer of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import nn

from noether.config.components import ModelBaseConfig
from noether.core.models.base import ModelBase
from noether.core.models.build import AdaptedModule, construct_model, path_below
from noether.errors import SpecError, placed
from noether.optim.model_optimizer import ModelOptimizer


class CompositeModel(ModelBase):
    """Base class of models made of models; a subclass calls its parts in `forward`.

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

    The optimizer of a part has its own table, `[model.encoder.optimizer]`; the optimizer of `[model]` trains the parts
    without one.

    Args:
        model_config: Config of the composite.
        parts: Submodels by name, or configs to build them from; each becomes an attribute of that name.
        name: Name of the model in metrics and checkpoints.
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
            with placed(*path_below(model_config, given)):
                part = construct_model(given) if isinstance(given, ModelBaseConfig) else given
            self._check_part_name(part_name, parts)
            part.name = part_name
            self.add_module(part_name, part)

    def _check_part_name(self, part: str, parts: Iterable[str]) -> None:
        if part in dir(self):
            found, wanted = f"found '{part}', an attribute of every composite", "another name"
        elif other := next((other for other in parts if part.startswith(f"{other}/")), None):
            found, wanted = f"found '{part}' beside '{other}'", "names that are not paths below each other"
        else:
            return
        raise SpecError(
            f"wrong name of a part of composite '{self.name}': {found}, expected {wanted}",
            hint=f"rename it, for example to '{part.replace('/', '_')}_model'",
        )

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
        """Return parameters under their names in checkpoints, without the adapters of torch modules."""
        return self._without_adapters(super().named_parameters, *args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        """Return buffers under their names in checkpoints, without the adapters of torch modules."""
        return self._without_adapters(super().named_buffers, *args, **kwargs)

    def _without_adapters(
        self, named: Callable[..., Any], prefix: str = "", *args: Any, **kwargs: Any
    ) -> Iterator[Any]:
        """Yield members under names without the `module` of each adapter; a module of the user may be called so too."""
        adapters = {name for name, module in self.named_modules() if isinstance(module, AdaptedModule)}
        for name, member in named("", *args, **kwargs):
            parts = name.split(".")
            kept = [part for place, part in enumerate(parts) if ".".join(parts[:place]) not in adapters]
            yield ".".join([*([prefix] if prefix else []), *kept]), member

    def freeze(self) -> Self:
        """Freeze parameters by the config of each part, then by the config of the composite."""
        for part in self.submodels.values():
            with placed(*path_below(self.model_config, part.model_config)):
                part.freeze()
        return super().freeze()

    def initialize_optimizer(self, *, total_updates: int, updates_per_epoch: int) -> None:
        """Build the optimizer of every part that trains.

        Raises:
            SpecError: if neither a part nor the composite names an optimizer, or a parameter that trains does not
                belong to exactly one part.
        """
        self._check_owners()
        for part in self.submodels.values():
            part.optimizer_config = part.optimizer_config or self.optimizer_config
            with placed(*path_below(self.model_config, part.model_config)):
                part.initialize_optimizer(total_updates=total_updates, updates_per_epoch=updates_per_epoch)

    def _check_owners(self) -> None:
        """Check that each parameter that trains belongs to one part; no optimizer, or two, would train it otherwise."""
        trained = [parameter for part in self.submodels.values() for parameter in part.parameters()]
        owners = Counter(id(parameter) for parameter in trained)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and owners[id(parameter)] != 1:
                count = owners[id(parameter)]
                raise SpecError(
                    f"wrong owners of parameter '{name}' in composite '{self.name}': found {count} parts, expected one",
                    hint=f"move it into one of the parts {', '.join(self._part_names)}, or freeze it",
                )

    def optimizer_owners(self) -> dict[str, ModelBase]:
        """Return the parts that are not composites, by name; those of a nested composite as `part.inner`."""
        return {
            f"{name}.{inner}" if isinstance(part, CompositeModel) else name: owner
            for name, part in self.submodels.items()
            for inner, owner in part.optimizer_owners().items()
        }

    def optimizers(self) -> dict[str, ModelOptimizer]:
        """Return the parts' optimizers by part name; those of a nested composite as `part.inner`."""
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
