"""Suggestions for a key or table in the wrong place of a spec: the table that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from noether.config.discriminated import CONFIG_BASES, Discriminated, base_config
from noether.kernel.entries import PLUGIN, ROLES
from noether.spec.describe.fields import alternatives, class_of, item_at
from noether.spec.errors.words import toml_path
from noether.spec.locate import TomlPath

_DEEPEST = 4
"""Longest path of a table that is suggested."""
_OTHER_NAMES = {"data": "dataset", "scheduler": "schedule", "lr_scheduler": "schedule", "criterion": "loss"}
"""Names of roles in other frameworks."""
_OTHER_KEYS = {
    "batch_size": "effective_batch_size",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "learning_rate": "lr",
}
"""Names of keys in other frameworks."""
_TOP = "at the top, before the first table"
_SHOWN = 2
_LOOKED_AT = 10


class _Table(NamedTuple):
    """A table that a spec may have.

    Attributes:
        path: Its path; the items of an array share the path of the array.
        fields: The class that validates it.
        is_item: True if it is an item of an array of tables.
    """

    path: TomlPath
    fields: type[BaseModel]
    is_item: bool = False

    @property
    def home(self) -> str:
        """The place to write its keys: `in [model]`."""
        if not self.path:
            return _TOP
        return f"in [[{toml_path(self.path)}]]" if self.is_item else f"in [{toml_path(self.path)}]"


def home_of(path: TomlPath, document: Any, root: type[BaseModel]) -> str | None:
    """Return the place where the unknown key at `path` is allowed, `in [model.optimizer]`, or None.

    Args:
        path: The path of the key.
        document: The whole spec; its kinds decide which tables there are.
        root: The class of the whole spec.
    """
    key, value = str(path[-1]), document
    for part in path:
        value = item_at(value, part)
    known = _OTHER_KEYS.get(key, key)
    tables = [table for table in _tables(_Table((), root), document) if known in table.fields.model_fields]
    if any(table.path == path[:-1] for table in tables):
        return f"here, as {known}"  # only the name is from another framework
    homes = list(dict.fromkeys(_home_in(table, known, value) for table in tables))
    if not homes:
        return _home_of_role(key)
    where = _TOP if _TOP in homes else " or ".join(homes[:_SHOWN])
    return where if known == key else f"{where}, as {known}"


def _home_in(table: _Table, key: str, value: Any) -> str:
    """Return the place to write a key with this value: a table has a header of its own."""
    inside = _Table((*table.path, key), table.fields, isinstance(value, list))
    is_table = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))
    return inside.home if is_table and not table.is_item else table.home


def _home_of_role(key: str) -> str | None:
    name = _OTHER_NAMES.get(key, key)
    for role in (*ROLES.values(), PLUGIN):
        if name in (role.name, role.group.removeprefix("noether.")):
            return f"in {role.hint.replace('<key>', 'train')}"
    return None


def _tables(table: _Table, value: Any) -> Iterator[_Table]:
    """Yield a table and the tables below it, as far as the spec and the base configs of its roles show."""
    yield table
    if len(table.path) < _DEEPEST:
        for name, field in table.fields.model_fields.items():
            yield from _below(field, item_at(value, name), (*table.path, name))


def _below(annotation: Any, value: Any, path: TomlPath, *, is_item: bool = False) -> Iterator[_Table]:
    for option in alternatives(annotation):
        arguments = get_args(option)
        if get_origin(option) is list:
            for item in _examples(value):
                yield from _below(arguments[0], item, path, is_item=True)
        elif get_origin(option) is dict:
            key = next(iter(value), "train") if isinstance(value, dict) else "train"
            yield from _below(arguments[1], item_at(value, key), (*path, key))
        elif fields := _fields(option, value):
            yield from _tables(_Table(path, fields, is_item), value)


def _examples(items: Any) -> list[Any]:
    """Return one item of each kind among the first few, so that a long list costs little."""
    by_kind: dict[str, Any] = {}
    for item in items[:_LOOKED_AT] if isinstance(items, list) else ():
        by_kind.setdefault(str(item.get("kind")) if isinstance(item, dict) else str(item), item)
    return list(by_kind.values()) or [None]


def _fields(option: Any, value: Any) -> type[BaseModel] | None:
    """Return the class that validates a table; without a known kind the base of its role, unless that imports torch."""
    if isinstance(option, Discriminated):
        return class_of(option, value) or (base_config(option.role) if option.role in CONFIG_BASES else None)
    return option if isinstance(option, type) and issubclass(option, BaseModel) else None
