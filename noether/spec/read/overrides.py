"""Overrides: `-s path=value`, `-s path+=value` and `--unset path`, parsed and applied to a document."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from noether.config.secrets import Reference
from noether.errors import SpecError
from noether.spec.errors.problem import InvalidSpecError, Problem, problem_at
from noether.spec.errors.words import described, listed, quoted, suggestion, toml_path, toml_string, visible
from noether.spec.fields import item_ids, role_of_items
from noether.spec.locate import Place, SourceText, Span, TomlPath
from noether.spec.read.document import MAX_DEPTH, parse_toml, plain
from noether.spec.read.layers import BEGINNING, ArgumentLayer, Layer, Node, Source, merged, node_of, value_of

_LONGEST = 80  # characters of an argument in a hint
_STRING = r"""("(?:[^"\\]|\\.)*"|'[^']*')"""
_BARE_WORD = r"(?<![\w.+-])([A-Za-z_][\w./:-]*)(?![\w./:-]|\s*=)"
_STRING_OR_WORD = re.compile(f"{_STRING}|{_BARE_WORD}")
_WORDS_OF_TOML = ("true", "false", "inf", "nan")


def cure(path: str, value: str) -> str | None:
    """Return a hint with the argument as it should be typed, if that can be guessed; else None.

    Args:
        path: The argument up to and with its `=`.
        value: The text behind the `=`.
    """
    if "," in value and len(value) < _LONGEST and _is_toml(f"[{value}]"):  # as other tools write a sweep
        key = path.rpartition("=")[0].strip()
        return f"to train with each: noether sweep SPEC -s 'sweep.{toml_string(key)}=[{value}]'"
    if value.startswith(("[", "{")):
        repaired = _with_quotes(value)
        if repaired == value:
            return None
        return f"words inside brackets need quotes: {_argument(path, repaired if _is_toml(repaired) else None)}"
    argument = _argument(path, toml_string(value.strip("\"'")))
    return f"quote a string: {argument}"


def _argument(path: str, value: str | None) -> str:
    """Return an argument for a shell; an example if the value is unknown or hard to read."""
    argument = f"{path.strip()}{value}"
    if value is None or len(argument) > _LONGEST or not argument.isprintable():
        return "-s 'path=\"value\"'"
    return "-s '" + argument.replace("'", "'\\''") + "'"


def _with_quotes(text: str) -> str:
    return _STRING_OR_WORD.sub(lambda found: found[1] or _quoted(found[2]), text)


def _quoted(word: str) -> str:
    return word if word in _WORDS_OF_TOML else toml_string(word)


def _is_toml(value: str) -> bool:
    try:
        tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return False
    return True


_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_UP_TO_EQUALS = re.compile(r"""((?:"(?:[^"\\]|\\.)*+"|'[^']*+'|\[[^\]]*+\]|[^"'\[=])*+)=""", re.DOTALL)
_ITEM = re.compile(r"\[([^\[\]]*)\]")
_WHERE = re.compile(r" \(at .*\)$")
_BEGINS_LIKE_TOML = re.compile(r"""["'\[{0-9+-]|(?:true|false|inf|nan)\b""")

Operation: TypeAlias = Literal["set", "append", "unset"]


@dataclass(frozen=True)
class ItemId:
    """The part of a path that picks an item of an array of tables by its id: `callbacks[ema]`."""

    id: str


Part: TypeAlias = str | ItemId


class Unset(str):
    """A path to remove, in the list of overrides, so that they keep the order of the command line."""


@dataclass(frozen=True)
class Override:
    """A change of one place of the document.

    Attributes:
        text: The argument.
        path: Keys and item ids from the root of the document; an index is a key of digits.
        value: The value; None for `unset`.
        operation: Set the value, append it, or remove the one that is there.
        layer: The layer of the value.
        spans: Spans of the parts of the path in the argument; empty for a value from Python.
        lenient: Accept that there is nothing to remove.
    """

    text: str
    path: tuple[Part, ...]
    value: Any
    operation: Operation = "set"
    layer: Layer = field(default_factory=lambda: Layer("set", Path.cwd()))
    spans: tuple[Span, ...] = ()
    lenient: bool = False

    def part_place(self, index: int) -> Place | None:
        """Return the place of a part of the path; None for a value from Python."""
        if not self.spans or not isinstance(self.layer, ArgumentLayer):
            return None
        return self.layer.source.place(self.spans[index].start, self.spans[index].end)


def parse_override(text: str, number: int = 1) -> Override:
    """Parse an argument of `-s`, or an `Unset` path.

    The value is TOML; a bare word is a string.

    Args:
        text: The argument.
        number: Its number from 1, for messages.

    Raises:
        InvalidSpecError: if there is no `=`, the path is malformed, or the value begins like TOML and is not TOML.
    """
    source = SourceText(f"command line, argument {number}", text, is_file=False)
    if isinstance(text, Unset):
        path, spans = _parts(source, 0, len(text))
        key = Span(0, len(text))
        return Override(text, path, None, "unset", ArgumentLayer(source, key, key), spans)
    equals = _equals(source)
    appends = text[:equals].rstrip().endswith("+")
    path, spans = _parts(source, 0, text.rindex("+", 0, equals) if appends else equals)
    value = _stripped(text, equals + 1, len(text))
    layer = ArgumentLayer(source, _stripped(text, 0, equals), value)
    return Override(text, path, _parse_value(source, value, layer), "append" if appends else "set", layer, spans)


def python_override(path: str, value: Any, folder: Path) -> Override:
    """Return an override with a value from Python; None removes the key, if it is there.

    Raises:
        SpecError: if the path is malformed, or TOML has no counterpart for the value.
    """
    layer = Layer("set", folder)
    given = plain({"value": value}, layer).get("value")
    return Override(path, parse_path(path), given, "unset" if given is None else "set", layer, lenient=True)


def parse_path(path: str) -> tuple[Part, ...]:
    """Parse a dotted path whose keys may be quoted and may be followed by `[id]`.

    Args:
        path: The path.

    Raises:
        InvalidSpecError: if the path is malformed.
    """
    return _parts(SourceText(path, path, is_file=False), 0, len(path))[0]


def _equals(source: SourceText) -> int:
    """Return the offset of the first `=` outside quotes and brackets."""
    path = _UP_TO_EQUALS.match(source.text)
    if path is None:
        whole = source.place(0, len(source.text))
        raise _refused(
            source, "no = in the argument, expected path=value", whole, "for example -s trainer.max_epochs=5"
        )
    return path.end() - 1


def _parts(source: SourceText, start: int, end: int) -> tuple[tuple[Part, ...], tuple[Span, ...]]:
    """Return the parts of the path between two offsets, and their spans."""
    bounds = _stripped(source.text, start, end)
    position, end = bounds.start, bounds.end
    parts: list[Part] = []
    spans: list[Span] = []
    while True:
        key = _KEY.match(source.text, position, end)
        if key is None:
            raise _malformed(source, position, bounds)
        parts.append(_unquoted(source, key))
        spans.append(Span(*key.span()))
        position = key.end()
        if item := _ITEM.match(source.text, position, end):
            parts.append(ItemId(item.group(1).strip().strip("\"'")))
            spans.append(Span(*item.span()))
            position = item.end()
        if position == end:
            return tuple(parts), tuple(spans)
        if len(parts) > MAX_DEPTH:
            place = source.place(position, position + 1)
            raise _refused(
                source, f"path too long: found more than {MAX_DEPTH} parts, expected at most that", place, None
            )
        if source.text[position] != ".":
            raise _malformed(source, position, bounds)
        position += 1


def _stripped(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    if not part.strip():
        return Span(start, end)
    return Span(start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip()))


def _parse_value(source: SourceText, span: Span, layer: ArgumentLayer) -> Any:
    text = source.text[span.start : span.end]
    if not text.strip():
        place = source.place(span.start, span.end)
        raise _refused(source, "no value after the =, expected path=value", place, 'an empty string is written path=""')
    inner = SourceText(source.origin, BEGINNING + text, is_file=False)
    try:
        table = parse_toml(inner)
        if table.keys() == {"value"}:
            return plain(table, layer)["value"]
        reason, place = "found more than one value, expected one", source.place(span.start, span.end)
    except InvalidSpecError as error:
        if not _BEGINS_LIKE_TOML.match(text) and "\n" not in text:
            return text
        reason, place = error.problems[0].message, _shifted(error.problems[0].places, inner, source, span)
    raise _refused(source, reason, place, cure(source.text[: span.start], text))


def _shifted(places: tuple[Place, ...], inner: SourceText, source: SourceText, span: Span) -> Place:
    """Return the place in the argument of a place in its value, which was parsed behind `value = `."""
    if not places:
        return source.place(span.start, span.end)
    offset = inner.offset(places[0].line, places[0].column) + span.start - len(BEGINNING)
    return source.place(min(max(offset, span.start), span.end), min(offset + 1, span.end))


def _unquoted(source: SourceText, key: re.Match[str]) -> str:
    """Return a key as TOML reads it."""
    try:
        (name,) = tomllib.loads(f"{key.group()} = 0")
    except tomllib.TOMLDecodeError as error:
        place = source.place(*key.span())
        message = f"{visible(key.group())} is not a key: {_WHERE.sub('', str(error))}"
        raise _refused(source, message, place, None) from None
    return name


def _malformed(source: SourceText, position: int, path: Span) -> InvalidSpecError:
    if not source.text[path.start : path.end].strip():
        place = source.place(path.start, path.end)
        return _refused(
            source, "no path before the =, expected path=value", place, "for example -s trainer.max_epochs=5"
        )
    inside = position < path.end
    found = quoted(source.text[position]) if inside else "its end"
    message = f"malformed path: found {found} at character {position - path.start + 1}, expected a key"
    hint = "a path is written trainer.callbacks[ema].every_n_epochs; quote keys with other characters"
    return _refused(source, message, source.place(position, position + inside), hint)


def _refused(source: SourceText, message: str, place: Place, hint: str | None) -> InvalidSpecError:
    return InvalidSpecError([Problem("invalid-override", (), message, hint, (place,))], origin="the overrides")


_Key: TypeAlias = str | int


def apply_override(root: Node, override: Override) -> None:
    """Apply an override to a document; missing tables on its path are made.

    A table merges as described in `noether.spec.read.layers`; an array, of tables too, is replaced.

    Raises:
        InvalidSpecError: if the path leads through a value that is not a table, names an item that does not exist,
            or there is nothing to remove.
    """
    holder = root
    walked: TomlPath = ()
    for index, part in enumerate(override.path[:-1]):
        key = _locate(holder, part, walked, override, index)
        below = _child(holder, key)
        if below is None:
            if override.operation == "unset":
                return _nothing_to_remove(holder, walked, override, index)
            if isinstance(override.path[index + 1], ItemId):
                raise _wrong(override, (*walked, key), f"{toml_path((*walked, key))} has no items", index + 1)
            below = holder.content[key] = _made_table(override)
        holder, walked = below, (*walked, key)
    last = len(override.path) - 1
    key = _locate(holder, override.path[last], walked, override, last)
    if override.operation == "unset" and _child(holder, key) is None:
        return _nothing_to_remove(holder, walked, override, last)
    return _change(holder, key, (*walked, key), override)


def _change(holder: Node, key: _Key, path: TomlPath, override: Override) -> None:
    old = _child(holder, key)
    if override.operation == "unset":
        del holder.content[key]
    elif override.operation == "set":
        holder.content[key] = merged(old, node_of(override.value, override.layer))
    else:
        _append(holder, key, old, path, override)


def _append(holder: Node, key: _Key, old: Node | None, path: TomlPath, override: Override) -> None:
    """Append the value to an array; a missing array is made."""
    if old is not None and not isinstance(old.content, list):
        message = f"+= appends to a list: found {described(value_of(old))} at {toml_path(path)}"
        raise _wrong(override, path, message, len(override.path) - 1)
    items = old.content if old else []
    new = node_of(override.value, override.layer)
    source = Source(override.layer, (), [*map(value_of, items), override.value])
    holder.content[key] = Node([*items, new], (source, *(old.sources if old else ())))


def _child(holder: Node, key: _Key) -> Node | None:
    content: Any = holder.content
    child: Node | None = content.get(key) if isinstance(content, dict) else content[key]
    return child


def _made_table(override: Override) -> Node:
    """Return an empty table for a missing part of the path."""
    layer = override.layer
    spot = layer.path_place if isinstance(layer, ArgumentLayer) else None
    return Node({}, (Source(Layer(layer.origin, layer.folder, spot), (), {}),))


def _nothing_to_remove(holder: Node, walked: TomlPath, override: Override, index: int) -> None:
    if override.lenient:
        return
    part = override.path[index]
    path = (*walked, str(part))
    message = f"no {toml_path(path)} to remove{suggestion(str(part), holder.content)}"
    where = toml_path(walked) or "the spec"
    hint = f"{where} has {listed(holder.content)}" if holder.content else None
    raise _wrong(override, path, message, index, hint)


def _locate(holder: Node, part: Part, walked: TomlPath, override: Override, index: int) -> _Key:
    """Return the key or index of `part` in `holder`."""
    if isinstance(holder.content, list):
        items = value_of(holder)
        return (
            _by_id(items, part, walked, override, index)
            if isinstance(part, ItemId)
            else _by_index(items, part, walked, override, index)
        )
    if isinstance(holder.content, dict) and isinstance(part, str):
        return part
    place = toml_path(walked)
    if isinstance(holder.content, dict):
        raise _wrong(override, walked, f"{place} is a table, whose items have no ids", index)
    if isinstance(holder.content, Reference):
        raise _wrong(override, walked, f"{place} is a reference to the environment, not a table", index)
    bare = holder.content
    hint = f"to give it options: -s '{place}={{kind={quoted(bare)}, …}}'" if isinstance(bare, str) else None
    raise _wrong(override, walked, f"{place} is {described(bare)}, not a table", index, hint)


def _by_id(items: Sequence[Any], part: ItemId, walked: TomlPath, override: Override, index: int) -> int:
    ids = item_ids(items, role_of_items(walked[-1]))
    if part.id in ids:
        return ids.index(part.id)
    known = f"it has {listed(ids)}" if ids else "it is empty"
    message = f"{toml_path(walked)} has no item with id {quoted(part.id)}{suggestion(part.id, ids)}"
    raise _wrong(override, walked, message, index, known)


def _by_index(items: Sequence[Any], part: str, walked: TomlPath, override: Override, index: int) -> int:
    place = toml_path(walked)
    if not (part.isascii() and part.isdecimal()):
        ids = item_ids(items, role_of_items(walked[-1]))
        hint = f"pick an item: {place}[{ids[0]}] or {place}.0" if ids else None
        raise _wrong(
            override, walked, f"{place} is a list: found {quoted(part)}, expected an index or an [id]", index, hint
        )
    if len(part) > 9 or int(part) >= len(items):
        count = f"{len(items)} item" + "s" * (len(items) != 1)
        message = f"no {place}.{part[:20]}: {place} has {count}"
        raise _wrong(override, walked, message, index, "indices start at 0")
    return int(part)


def _wrong(override: Override, path: TomlPath, message: str, index: int, hint: str | None = None) -> SpecError:
    place = override.part_place(index)
    return InvalidSpecError([problem_at(place, "unknown-path", path, message, hint)], origin=override.layer.origin)
