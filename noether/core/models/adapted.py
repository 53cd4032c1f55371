"""AdaptedModule: any `torch.nn.Module` as the model of a run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from noether.core.models.base import ModelBase
from noether.core.schemas.models import ModelBaseConfig


class AdaptedModule(ModelBase):
    """Wraps a module that knows nothing of Noether; names in checkpoints are the module's own.

    The forward properties are passed by name where the module's `forward` names them, otherwise in the order of
    `forward_properties`.

    Args:
        module: The module that does the work.
        model_config: Holds `optimizer` and `frozen`.
        name: How metrics and checkpoints call this model.
    """

    def __init__(self, module: nn.Module, model_config: ModelBaseConfig | None = None, *, name: str = "model") -> None:
        super().__init__(model_config, name=name)
        self.module = module
        parameters = inspect.signature(module.forward).parameters
        self._names = frozenset(parameters)
        self._takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def forward(self, **properties: Tensor) -> Any:
        """Call the module with the batch's forward properties, in any of the two ways."""
        if self._takes_any_name or self._names.issuperset(properties):
            return self.module(**properties)
        return self.module(*properties.values())

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """Name parameters as the module does."""
        return self.module.named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's own state."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the module's own state."""
        return self.module.load_state_dict(state_dict, strict=strict, assign=assign)
