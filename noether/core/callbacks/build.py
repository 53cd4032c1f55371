"""From a callback's config to the callback."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from noether.config.base import component_of, construction_of
from noether.config.signature import constructors, parameters
from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.errors import SpecError


def build_callback(config: CallBackBaseConfig, default_kwargs: Mapping[str, Any]) -> CallbackBase:
    """Construct the callback that `config` is for.

    Args:
        config: Its settings; its `kind` names the class.
        default_kwargs: What every callback's constructor takes beside its config.

    Raises:
        SpecError: Its class is abstract.
    """
    component = component_of(config)
    target = component.target
    if inspect.isabstract(target):
        missing = ", ".join(sorted(target.__abstractmethods__))
        raise SpecError(f"the callback '{config.kind}' is abstract: {target.__name__} does not define {missing}")
    with construction_of(config):
        callback: CallbackBase = target(config, **default_kwargs) if _takes_config(target) else target(**default_kwargs)
    callback.component = component
    callback.id = config.id or ""
    return callback


def _takes_config(target: type) -> bool:
    names = [parameter.name for constructor in constructors(target) for parameter in parameters(constructor)]
    return any(name == "config" or name.endswith("_config") for name in names)
