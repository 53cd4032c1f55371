"""From callback configs to callbacks with ids, and to participants in the dispatch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from noether.core.callbacks.base import CallbackBase, CallBackBaseConfig
from noether.core.schemas.construction import construction_of
from noether.core.schemas.constructors import constructors, parameters
from noether.core.schemas.lib import component_of
from noether.core.utils.free_name import free_name
from noether.errors import SpecError
from noether.kernel.participant import Participant


def build_callback(config: CallBackBaseConfig, default_kwargs: Mapping[str, Any]) -> CallbackBase:
    """Construct the callback that `config` is for.

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


def participants_of(callbacks: Sequence[CallbackBase]) -> list[Participant]:
    """Return the callbacks as participants; one without an id of its own gets its short kind, then `-2`, `-3`."""
    taken = {callback.id for callback in callbacks if callback.id}
    for callback in callbacks:
        if not callback.id:
            callback.id = free_name(_short_kind(callback), taken)
            taken.add(callback.id)
    return [
        Participant(
            id=callback.id,
            kind=callback.component.kind if callback.component else type(callback).__name__,
            instance=callback,
            distribution=callback.component.distribution if callback.component else "",
            version=callback.component.version if callback.component else "",
        )
        for callback in callbacks
    ]


def _short_kind(callback: CallbackBase) -> str:
    if callback.component is None or callback.component.entry is None:
        return type(callback).__name__.lower()
    return callback.component.entry.name
