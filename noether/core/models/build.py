"""Build a model from `[model]`: sizes inferred, any `nn.Module` adapted, frozen parts frozen."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from noether.config.base import component_of
from noether.config.components import ModelBaseConfig
from noether.config.signature import build_component
from noether.core.models.base import ModelBase, check_call, positional_only


class AdaptedModule(ModelBase):
    """Adapter for any torch module; names in checkpoints are the module's own.

    The forward properties are passed by name if the module's `forward` has arguments of these names, positional-only
    ones by position; otherwise in the order of `forward_properties`.

    Args:
        module: The adapted module.
        model_config: Config with `optimizer` and `frozen`.
        name: Name of the model in metrics and checkpoints.
    """

    def __init__(self, module: nn.Module, model_config: ModelBaseConfig | None = None, *, name: str = "model") -> None:
        super().__init__(model_config, name=name)
        self.module = module
        self.register_state_dict_post_hook(_without_wrapper)  # type: ignore[no-untyped-call]  # torch's own
        self.register_load_state_dict_pre_hook(_with_wrapper)  # type: ignore[no-untyped-call]
        parameters = inspect.signature(module.forward).parameters.values()
        self._by_position = positional_only(module.forward)
        self._names = frozenset(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        self._takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def __getattr__(self, name: str) -> Any:
        """Look up missing attributes in the module, so that `trainer_model.embed(x)` works in a callback."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = self._modules.get("module") if "_modules" in vars(self) else None
            if module is None or not hasattr(module, name):
                raise
            return getattr(module, name)

    def forward(self, *inputs: Tensor, **properties: Tensor) -> Any:
        """Call the module with the forward properties, by name or in their order."""
        if inputs or self._takes_any_name or self._names.issuperset(properties):
            if self._by_position and not inputs:
                inputs = tuple(properties.pop(name) for name in self._by_position if name in properties)
            return self.module(*inputs, **properties)
        return self.module(*properties.values())

    def check_inputs(self, names: Sequence[str]) -> None:
        """Check that the module accepts these properties, by name or in their order."""
        check_call(self.module.forward, names, by_name=self._takes_any_name or self._names.issuperset(names))

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's parameters under the module's names."""
        return self.module.named_parameters(*args, **kwargs)


def _without_wrapper(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Remove `module.` from the names of a saved state."""
    inner = f"{prefix}module."
    for name in [name for name in state if name.startswith(inner)]:
        state[prefix + name.removeprefix(inner)] = state.pop(name)


def _with_wrapper(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Add `module.` to the names of a loaded state."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}module.{name.removeprefix(prefix)}"] = state.pop(name)


def infer_sizes(
    config: ModelBaseConfig, inputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
) -> ModelBaseConfig:
    """Return the config with sizes filled in from one training sample, if the model supports it."""
    target = component_of(config).target
    if isinstance(target, type) and issubclass(target, ModelBase):
        inferred: ModelBaseConfig = target.infer_sizes(config, inputs, targets)
        return inferred
    return config


def build_model(config: ModelBaseConfig, device: torch.device) -> ModelBase:
    """Construct the model that `config` names, move it to `device` and freeze its frozen parts.

    Raises:
        SpecError: if the class refuses its arguments, or a `frozen` pattern matches no parameter.
    """
    return construct_model(config).to(device).freeze()


def construct_model(config: ModelBaseConfig) -> ModelBase:
    """Construct the model that `config` names; a part of a composite is moved and frozen with the whole.

    Raises:
        SpecError: if the class refuses its arguments.
    """
    made: nn.Module = build_component(config)
    if not isinstance(made, ModelBase):
        return AdaptedModule(made, config)
    if made.model_config is None:  # a function built it without the config of the spec
        made.model_config, made.optimizer_config = config, config.optimizer
    return made
