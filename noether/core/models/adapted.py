"""AdaptedModule: any `torch.nn.Module` as the model of a run."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from noether.core.models.base import ModelBase, check_call
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
        self.register_state_dict_post_hook(_without_wrapper)  # type: ignore[no-untyped-call]  # torch's own
        self.register_load_state_dict_pre_hook(_with_wrapper)  # type: ignore[no-untyped-call]
        parameters = inspect.signature(module.forward).parameters
        self._names = frozenset(parameters)
        self._takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def __getattr__(self, name: str) -> Any:
        """Find what this wrapper has not in the module, so that `trainer_model.embed(x)` works in a callback."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = self._modules.get("module") if "_modules" in vars(self) else None
            if module is None or not hasattr(module, name):
                raise
            return getattr(module, name)

    def forward(self, *inputs: Tensor, **properties: Tensor) -> Any:
        """Call the module with the batch's forward properties, in any of the two ways."""
        if inputs or self._takes_any_name or self._names.issuperset(properties):
            return self.module(*inputs, **properties)
        return self.module(*properties.values())

    def check_inputs(self, names: Sequence[str]) -> None:
        """Check that the module can be called with these properties, by name or in their order."""
        check_call(self.module.forward, names, by_name=self._takes_any_name or self._names.issuperset(names))

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """Name parameters as the module does."""
        return self.module.named_parameters(*args, **kwargs)


def _without_wrapper(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Take `module.` out of the names of a state that is saved."""
    inner = f"{prefix}module."
    for name in [name for name in state if name.startswith(inner)]:
        state[prefix + name.removeprefix(inner)] = state.pop(name)


def _with_wrapper(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Put `module.` back into the names of a state that is loaded."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}module.{name.removeprefix(prefix)}"] = state.pop(name)
