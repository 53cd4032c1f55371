"""Tables, docstrings and field types as Markdown."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from noether.core.schemas.discriminated import Discriminated

_WORDS = {int: "integer", float: "number", str: "string", bool: "boolean", Any: "any", NoneType: "nothing"}
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):", re.MULTILINE)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; line breaks and bars inside of cells are made harmless."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def prose(documented: Any) -> str:
    """Return a docstring up to its first section, as it is: docstrings are written in Markdown."""
    return _SECTION.split(inspect.getdoc(documented) or "")[0].strip()


def summary(documented: Any) -> str:
    """Return the first paragraph of a docstring."""
    return prose(documented).partition("\n\n")[0]


def fields_table(fields: dict[str, FieldInfo]) -> str:
    """Return a table of the fields of a config: name, type, default, meaning."""
    rows = (
        (f"`{name}`", field_type(field), _default(field), field.description or "") for name, field in fields.items()
    )
    return table(("field", "type", "default", "meaning"), rows)


def field_type(field: FieldInfo) -> str:
    """Return the type of a field in the words of a TOML file."""
    roles = [mark.role for mark in field.metadata if isinstance(mark, Discriminated)]
    return f"*{roles[0]}*" if roles else _type(field.annotation)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        roles = [mark.role for mark in annotation.__metadata__ if isinstance(mark, Discriminated)]
        return f"*{roles[0]}*" if roles else _type(annotation.__origin__)
    if origin in (Union, UnionType):
        return " or ".join(_type(option) for option in arguments if option is not NoneType)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)} {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if isinstance(annotation, TypeVar):
        return _type(annotation.__bound__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "unset"
    if isinstance(value, BaseModel):
        kind = getattr(value, "kind", "")
        return f'`"{kind}"`' if kind else "`{}`"
    return f"`{json.dumps(value)}`"
