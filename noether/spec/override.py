"""`-s path=value`, `-s path+=value` and `--unset path`: what one argument says, before it meets a document."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from noether.spec.document import parse_toml
from noether.spec.layer import BEGINNING, ArgumentLayer, Layer
from noether.spec.limits import MAX_DEPTH
from noether.spec.locate import Span
from noether.spec.place import Place, SourceText
from noether.spec.plain import plain
from noether.spec.problem import InvalidSpecError, Problem, quoted
from noether.spec.quoting import visible
from noether.spec.value_cure import cure

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
    """A path that `--unset` takes away, among overrides, so that these keep the order of the command line."""


@dataclass(frozen=True)
class Override:
    """What to do at one place of the document.

    Attributes:
        text: The argument as it was given.
        path: Keys and item ids from the root of the document; an index is a key of digits.
        value: The value; None where what is there is removed.
        operation: Whether the value is set or appended, or what is there removed.
        layer: Who says so.
        spans: Where in the argument each part of the path is written; empty for a value from Python.
        lenient: Whether there may be nothing to remove.
    """

    text: str
    path: tuple[Part, ...]
    value: Any
    operation: Operation = "set"
    layer: Layer = field(default_factory=lambda: Layer("set", Path.cwd()))
    spans: tuple[Span, ...] = ()
    lenient: bool = False

    def part_place(self, index: int) -> Place | None:
        """Return where a part of the path is written; None for a value from Python."""
        if not self.spans or not isinstance(self.layer, ArgumentLayer):
            return None
        return self.layer.source.place(self.spans[index].start, self.spans[index].end)


def parse_override(text: str, number: int = 1) -> Override:
    """Read an argument of `-s`, or an `Unset` path.

    The value is TOML; a bare word is a string.

    Args:
        text: The argument.
        number: Which one it is, from 1, for messages.

    Raises:
        InvalidSpecError: There is no `=`, the path is malformed, or the value begins like TOML and is none.
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
    """Return an override with a value from Python; None removes what is there, if anything is.

    Raises:
        SpecError: The path is malformed, or TOML has no counterpart for the value.
    """
    layer = Layer("set", folder)
    given = plain({"value": value}, layer).get("value")
    return Override(path, parse_path(path), given, "unset" if given is None else "set", layer, lenient=True)


def parse_path(path: str, text: str | None = None) -> tuple[Part, ...]:
    """Read a dotted path whose keys may be quoted and may be followed by `[id]`.

    Args:
        path: The path.
        text: The whole argument, for messages; the path alone by default.

    Raises:
        InvalidSpecError: The path is malformed.
    """
    return _parts(SourceText(text or path, path, is_file=False), 0, len(path))[0]


def _equals(source: SourceText) -> int:
    """Return where the first `=` outside quotes and brackets is."""
    path = _UP_TO_EQUALS.match(source.text)
    if path is None:
        whole = source.place(0, len(source.text))
        raise _refused(source, "expected path=value", whole, "for example -s trainer.max_epochs=5")
    return path.end() - 1


def _parts(source: SourceText, start: int, end: int) -> tuple[tuple[Part, ...], tuple[Span, ...]]:
    """Return the parts of the path that stands between two offsets, and where each of them is."""
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
            raise _refused(source, f"the path has more than {MAX_DEPTH} parts", place, None)
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
        raise _refused(source, "no value behind the =", place, 'an empty string is written path=""')
    inner = SourceText(source.origin, BEGINNING + text, is_file=False)
    try:
        table = parse_toml(inner)
        if table.keys() == {"value"}:
            return plain(table, layer)["value"]
        reason, place = "it holds more than one value", source.place(span.start, span.end)
    except InvalidSpecError as error:
        if not _BEGINS_LIKE_TOML.match(text) and "\n" not in text:
            return text
        reason, place = error.problems[0].message, _shifted(error.problems[0].places, inner, source, span)
    raise _refused(source, reason, place, cure(source.text[: span.start], text))


def _shifted(places: tuple[Place, ...], inner: SourceText, source: SourceText, span: Span) -> Place:
    """Return where in the argument something of its value is that was parsed behind `value = `."""
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
        raise _refused(source, f"{visible(key.group())} is no key: {_WHERE.sub('', str(error))}", place, None) from None
    return name


def _malformed(source: SourceText, position: int, path: Span) -> InvalidSpecError:
    if not source.text[path.start : path.end].strip():
        place = source.place(path.start, path.end)
        return _refused(source, "no path in front of the =", place, "for example -s trainer.max_epochs=5")
    inside = position < path.end
    found = f"found {quoted(source.text[position])}" if inside else "it ends"
    return _refused(
        source,
        f"expected a key at character {position - path.start + 1} of the path, {found}",
        source.place(position, position + inside),
        "a path is written trainer.callbacks[ema].every_n_epochs; quote keys with other characters",
    )


def _refused(source: SourceText, message: str, place: Place, hint: str | None) -> InvalidSpecError:
    return InvalidSpecError([Problem((), message, hint, (place,))], origin="the overrides")
