"""Build a model from `[model]`: sizes inferred, any `nn.Module` adapted, parts frozen and recomputed."""

from __future__ import annotations

import gc
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from noether.config.base import component_of
from noether.config.components import ModelBaseConfig
from noether.config.signature import build_component
from noether.core.models.base import ModelBase, check_call, positional_only
from noether.core.models.recompute import recompute
from noether.data.randomness import rng_snapshot
from noether.errors import placed
from noether.optim.build import matching
from noether.spec.fields import configs_in
from noether.spec.locate import TomlPath


class AdaptedModule(ModelBase):
    """Adapter for any torch module; state, attributes, and names of parameters and buffers are the module's own.

    The forward properties are passed by name if the module's `forward` has arguments of these names, positional-only
    ones by position; otherwise in the order of `forward_properties`. A `forward(x, **kwargs)` is given names if `x` is
    one of them.

    Args:
        module: The adapted module.
        model_config: Config with `optimizer` and `frozen`.
        name: Name of the model in metrics and checkpoints.
    """

    def __init__(self, module: nn.Module, model_config: ModelBaseConfig | None = None, *, name: str = "model") -> None:
        super().__init__(model_config, name=name)
        self.register_load_state_dict_pre_hook(AdaptedModule._load_below)  # type: ignore[no-untyped-call]  # torch's own
        parameters = list(inspect.signature(module.forward).parameters.values())
        self._by_position = positional_only(module.forward)
        self._names = frozenset(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        self._takes_any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._required = frozenset(p.name for p in parameters if p.default is p.empty and p.name in self._names)
        self.module = module  # from here on, other attributes are the module's

    def __getattr__(self, name: str) -> Any:
        """Look up missing attributes in the module, so that `trainer_model.embed(x)` works in a callback."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            module = self._modules.get("module") if "_modules" in vars(self) else None
            if module is None or not hasattr(module, name):
                raise
            return getattr(module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set attributes of the module, so that `self.model.head = …` in a callback changes what is called."""
        super().__setattr__(name, value) if self._has_own(name) else setattr(self.module, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete an attribute of the module."""
        super().__delattr__(name) if self._has_own(name) else delattr(self.module, name)

    def _has_own(self, name: str) -> bool:
        own = vars(self)
        return "module" not in own.get("_modules", ()) or name == "module" or name in own or hasattr(type(self), name)

    def register_buffer(self, *args: Any, **kwargs: Any) -> None:
        """Register a buffer of the module."""
        self.module.register_buffer(*args, **kwargs)

    def register_parameter(self, *args: Any, **kwargs: Any) -> None:
        """Register a parameter of the module."""
        self.module.register_parameter(*args, **kwargs)

    def add_module(self, *args: Any, **kwargs: Any) -> None:
        """Add a child to the module."""
        self.module.add_module(*args, **kwargs)

    def forward(self, *inputs: Tensor, **properties: Tensor) -> Any:
        """Call the module with the forward properties, by name or in their order."""
        if (
            inputs
            or self._names.issuperset(properties)
            or (self._takes_any_name and self._required <= properties.keys())
        ):
            if self._by_position and not inputs:
                inputs = tuple(properties.pop(name) for name in self._by_position if name in properties)
            return self.module(*inputs, **properties)
        return self.module(*properties.values())

    def check_inputs(self, names: Sequence[str]) -> None:
        """Check that the module accepts these properties, by name or in their order."""
        by_name = self._names.issuperset(names) or (self._takes_any_name and self._required.issubset(names))
        check_call(self.module.forward, names, by_name=by_name)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's parameters under the module's names."""
        return self.module.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's buffers under the module's names."""
        return self.module.named_buffers(*args, **kwargs)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return the module's own `state_dict`, or add it to the state of a model around this one."""
        if args or type(self.module).state_dict is nn.Module.state_dict:
            return self.module.state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        options: Any = {"keep_vars": True} if keep_vars else {}
        own = self.module.state_dict(**options)  # an override may write entries without a prefix, or not know it
        if destination is None and not prefix:
            return own
        if destination is None:
            destination = OrderedDict()
            destination._metadata = {}
        destination.update({prefix + name: value for name, value in own.items()})
        versions = getattr(own, "_metadata", {})
        destination._metadata.update({f"{prefix}{path}".removesuffix("."): of for path, of in versions.items()})
        return destination

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state with the module's own method."""
        return self.module.load_state_dict(state_dict, *args, **kwargs)

    def _load_below(
        self, state: dict[str, Any], prefix: str, _: Any, __: bool, missing: list[str], unexpected: list[str], *___: Any
    ) -> None:
        """Prepare a state that torch loads into a model around this one: torch looks for names below `module`.

        All names are changed at once: the module may have a child called `module` itself. A method `load_state_dict`
        that the module overrides is called, which torch does for outermost models only; torch then finds the module's
        own tensors.
        """
        own = {name.removeprefix(prefix): state.pop(name) for name in [*state] if name.startswith(prefix)}
        if type(self.module).load_state_dict is not nn.Module.load_state_dict:
            found = self.module.load_state_dict(own, strict=False)
            missing += [prefix + name for name in getattr(found, "missing_keys", ())]
            unexpected += [prefix + name for name in getattr(found, "unexpected_keys", ())]
            own = nn.Module.state_dict(self.module)
        state.update({f"{prefix}module.{name}": value for name, value in own.items()})


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
    """Construct the model that `config` names, move it to `device`, and apply its patterns `frozen` and `checkpoint`.

    Raises:
        SpecError: if the class refuses its arguments, or a pattern matches nothing.
    """
    with placed("model"):
        model = construct_model(config).to(device).freeze()
        recompute_matching(model)
    return model


def model_without_values(config: ModelBaseConfig) -> ModelBase | None:
    """Construct a model whose tensors have shapes and no values; None if its class needs values to be constructed.

    So does a model that ties tensors, keeps some beside its parameters and buffers, draws numbers on the CPU, looks for
    `meta`, or whose layers have no sizes yet. The generators are then as they were before.
    """
    meta, put_back, drawn = torch.device("meta"), rng_snapshot(), torch.get_rng_state()
    model = None
    with suppress(Exception):  # whatever a constructor does with values that are missing; it is built with them then
        with meta, _Watch() as watch:
            model = build_model(config, meta)
        if watch.needs_values or not _is_skeleton(model):
            model = None
    if model is None or not torch.equal(drawn, torch.get_rng_state()):
        put_back()
        return None
    return model


class _Watch(TorchFunctionMode):
    """Notes operations that fail without values, also where a constructor goes on, and looks for missing values."""

    needs_values = False

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        """Call an operation."""
        self.needs_values |= function == _IS_META
        try:
            return function(*arguments, **(options or {}))
        except Exception:
            self.needs_values = True
            raise


_IS_META: Any = Tensor.is_meta.__get__  # type: ignore[attr-defined]  # a property, which torch declares as a bool


def _is_skeleton(model: ModelBase) -> bool:
    """Return True if a model has nothing on `meta` but parameters and buffers, each in one place."""
    tensors = [*model.parameters(), *model.buffers()]
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    if len(named) != len(tensors) or any(map(is_lazy, tensors)) or not all(tensor.is_meta for tensor in tensors):
        return False
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.device)]
    gc.collect()  # tensors in lists and closures of the model, which no name leads to; those of nobody are gone now
    found = {id(one) for one in gc.get_objects() if issubclass(type(one), Tensor) and one.is_meta}
    return found <= set(map(id, tensors)) and all(device.type != "meta" for device in kept)


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


def recompute_matching(model: ModelBase) -> None:
    """Recompute the modules that match the patterns `checkpoint` of a model and of the parts in it.

    A module within another one that matches is recomputed along with it; a shared one has its first name.

    Raises:
        SpecError: if a pattern matches no module that is called.
    """
    modules, names, configs = list(named_modules(model)), dict[nn.Module, str](), set[int]()
    for owner, found in modules:
        config = found.model_config if isinstance(found, ModelBase) else None
        patterns = [] if config is None else config.checkpoint
        if id(config) in configs or not isinstance(patterns, list):  # the composite's config, or an option of its own
            continue
        configs.add(id(config))
        prefix = f"{owner}." if owner else ""
        within = {
            name.removeprefix(prefix): module
            for name, module in modules
            if name.startswith(prefix) and name != owner and type(module).forward is not nn.Module.forward
        }
        place = path_below(model.model_config, config)
        for index, pattern in enumerate(patterns):
            with placed(*place, "checkpoint", index):
                found_names = matching(pattern, within, setting="`checkpoint` pattern", of="module of the model")
            for name in found_names:
                names.setdefault(within[name], prefix + name)
    inner = {part for module in names for part in module.modules() if part is not module}
    for module, name in names.items():
        if module not in inner:
            recompute(module, name)


def path_below(config: ModelBaseConfig | None, part: Any) -> TomlPath:
    """Return the path of the config of a part in that of its composite; empty if it is not there."""
    return next((path for path, one in configs_in(config) if one is part), ())


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules under all of their names, without the adapters of torch modules, as parameters are named."""
    named = dict(model.named_modules(remove_duplicate=False))
    adapters = {name for name, module in named.items() if isinstance(module, AdaptedModule)}
    for name, module in named.items():
        parts = name.split(".")
        kept = [part for place, part in enumerate(parts) if ".".join(parts[:place]) not in adapters]
        yield ".".join(kept), module
