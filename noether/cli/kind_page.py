"""What `plugins info` shows of a kind: its options, and a table to paste into a spec."""

from __future__ import annotations

import inspect
import json
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from noether.cli.table import print_table
from noether.kernel.entries import PLUGIN
from noether.kernel.hookspecs import HOOKS
from noether.kernel.markers import implementation_options

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from noether.kernel.entries import Component

_PLACES = {
    "callback": "[[trainer.callbacks]]",
    "dataset": "[datasets.train]",
    "transform": "[[transforms]]",
    "tracker": "[[trackers]]",
    "model": "[model]",
    "trainer": "[trainer]",
    "initializer": "[initializer]",
}
_INLINE = {"loss": "loss_fn", "optimizer": "optimizer", "schedule": "schedule"}


def print_kind(component: Component) -> None:
    """Print where a kind comes from, what it does, and what it can be told."""
    from noether.config.config_class import config_class_of
    from noether.spec.describe.fields import table_class_of

    if component.role == PLUGIN.name:
        _print_plugin(component)
        return
    config_class = config_class_of(component.target, component.role)
    summary = (inspect.getdoc(component.target) or "").strip().partition("\n")[0]
    path = f"{component.target.__module__}.{getattr(component.target, '__qualname__', '')}"
    print(f"{component.role} '{component.kind}' from {component.origin}: {path}\n  {summary}\n")
    fields = {name: field for name, field in config_class.model_fields.items() if name != "kind"}
    print_table([_row(name, field) for name, field in fields.items()])
    for name, field in fields.items():
        if (table_class := table_class_of(field)) is not None:
            print(f"\neach table of {name}\n")
            print_table([_row(*option) for option in table_class.model_fields.items()])
    print(f"\n{_example(component, config_class)}")


def _print_plugin(component: Component) -> None:
    hooks = [name for name in HOOKS if implementation_options(getattr(component.target, name, None)) is not None]
    summary = (inspect.getdoc(component.target) or "").strip().partition("\n")[0]
    print(f"run plugin '{component.kind}' from {component.origin}\n  {summary}\n")
    print(f"implements {', '.join(hooks) or 'no hook'}\n")
    print(f'[plugins]\nuse = ["{component.kind}"]')


def _row(name: str, field: FieldInfo) -> dict[str, str]:
    default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
    return {
        "option": name,
        "type": _type(field.annotation),
        "default": default,
        "meaning": field.description or "",
    }


def _type(annotation: Any) -> str:
    """Write a type as a spec's reader thinks of it: `float | None`, and `table` for what a `kind` chooses."""
    if isinstance(annotation, type) and not get_args(annotation):
        return "table" if hasattr(annotation, "model_fields") else annotation.__name__
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join("None" if member is NoneType else _type(member) for member in get_args(annotation))
    if get_origin(annotation) is Annotated or annotation is Any:
        return "table"
    if get_origin(annotation) is list:
        return f"list[{_type(get_args(annotation)[0])}]"
    return str(annotation).replace("typing.", "")


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    kind = getattr(value, "kind", None)
    return json.dumps(kind if kind is not None else value, default=str)


def _example(component: Component, config_class: type[BaseModel]) -> str:
    """Return TOML that names the kind, with what it cannot do without."""
    required = [name for name, field in config_class.model_fields.items() if field.is_required()]
    if component.role in _INLINE:
        options = "".join(f", {name} = …" for name in required)
        return f'{_INLINE[component.role]} = {{ kind = "{component.kind}"{options} }}'
    lines = [_PLACES.get(component.role, ""), f'kind = "{component.kind}"']
    if getattr(config_class, "needs_interval", False):
        lines.append("every_n_epochs = 1")
    return "\n".join([*lines, *(f"{name} = …" for name in required)])
