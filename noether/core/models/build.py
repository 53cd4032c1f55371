"""Build a model from `[model]`: sizes inferred, any `nn.Module` adapted, frozen parts frozen."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noether.config.base import component_of, construction_of
from noether.config.components import ModelBaseConfig
from noether.config.signature import SignatureConfig
from noether.core.models.base import ModelBase, check_call


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


def infer_sizes(
    config: ModelBaseConfig, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> ModelBaseConfig:
    """Return the config with its sizes filled in from one training sample, where the model knows how."""
    target = component_of(config).target
    if isinstance(target, type) and issubclass(target, ModelBase):
        inferred: ModelBaseConfig = target.infer_sizes(config, inputs, targets)
        return inferred
    return config


def build_model(config: ModelBaseConfig, device: torch.device) -> ModelBase:
    """Construct the model that `config` names and move it to `device`.

    Raises:
        SpecError: The class refuses its arguments, or a `frozen` pattern matches nothing.
    """
    return construct_model(config).to(device).freeze()


def construct_model(config: ModelBaseConfig) -> ModelBase:
    """Construct the model that `config` names; a part of a composite is moved and frozen with the whole.

    Raises:
        SpecError: The class refuses its arguments.
    """
    target = component_of(config).target
    with construction_of(config):
        if issubclass(target, ModelBase):
            model: ModelBase = target(config)
            return model
        assert isinstance(config, SignatureConfig), "a foreign class has a config made from its signature"
        return AdaptedModule(target(**config.arguments()), config)
