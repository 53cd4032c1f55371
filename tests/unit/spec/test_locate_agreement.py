"""The locator finds every key that `tomllib` parses, in any spelling."""

import random
import re
import string
import tomllib
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.spec.locate import Located, Locations, Span, TomlPath

HERE = Path(__file__).parent
CORPUS = [*sorted((HERE / "toml_corpus").glob("*.toml")), *sorted((HERE.parents[2] / "specs").rglob("*.toml"))]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_everything_in_the_corpus_is_found(path: Path, line_end: str):
    check(path.read_text(encoding="utf-8").replace("\n", line_end))


def check(text: str) -> None:
    """Check that exactly the keys that `tomllib` parses are located, and that each span covers its value."""
    document = tomllib.loads(text)
    parsed = dict(nodes(document))
    locations = Locations(text)
    assert set(locations) == set(parsed)
    spans: dict[TomlPath, Span] = {}
    for path, value in parsed.items():
        located = locations.of(path)
        assert located is not None
        assert locations.nearest((*path, "no such key", 0)) == (path, located)
        if not path:
            continue
        check_key(text, path, located)
        if located.header is not None:
            assert names(path) == next(chains(tomllib.loads(cut(text, located.header))))[: len(names(path))]
        if located.value is not None:
            assert repr(tomllib.loads(f"x = {cut(text, located.value)}")["x"]) == repr(value)
        if not isinstance(value, (dict, list)):
            assert located.value is not None
            spans[path] = located.value
    check_numbers_written_over_values_arrive_at_their_paths(text, document, spans)


def check_key(text: str, path: TomlPath, located: Located) -> None:
    if located.key is None:
        assert isinstance(path[-1], int)
        assert located.value is not None
        return
    assert list(tomllib.loads(f"{cut(text, located.key)} = 0")) == names(path)[-1:]
    assert located.dotted.start <= located.key.start < located.key.end <= located.dotted.end
    chain = next(chains(tomllib.loads(f"{cut(text, located.dotted)} = 0")))
    assert names(path)[-1] in chain
    if located.value is not None:
        assert names(path)[-len(chain) :] == chain
        assert re.fullmatch(r"[ \t]*=[ \t]*", text[located.dotted.end : located.value.start])


def check_numbers_written_over_values_arrive_at_their_paths(
    text: str, document: Any, spans: dict[TomlPath, Span]
) -> None:
    numbers = {path: 1_000_000 + number for number, path in enumerate(spans)}
    for path, span in sorted(spans.items(), key=lambda item: item[1].start, reverse=True):
        text = f"{text[: span.start]}{numbers[path]}{text[span.end :]}"
    changed = tomllib.loads(text)
    assert {path: value for path, value in nodes(changed) if not isinstance(value, (dict, list))} == numbers


def nodes(value: Any, path: TomlPath = ()) -> Iterator[tuple[TomlPath, Any]]:
    yield path, value
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(item, (*path, key))


def chains(document: Any) -> Iterator[list[str]]:
    """The keys from the root to each innermost value or empty table."""
    return (names(path) for path, value in nodes(document) if not value)


def names(path: TomlPath) -> list[str]:
    return [part for part in path if isinstance(part, str)]


def cut(text: str, span: Span) -> str:
    return text[span.start : span.end]


TEXTS = st.text(st.sampled_from("ab \t\n\r.#=[]{},\"'\\éß😀\u2028\x85\x7f\x01")) | st.text(max_size=5)
ZONES = st.none() | st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
SCALARS = (
    TEXTS
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.datetimes(min_value=datetime(1000, 1, 1), timezones=ZONES)
    | st.dates(min_value=date(1000, 1, 1))
    | st.times()
)
KEYS = st.sampled_from(["a", "b", "a-b", "1", "1.5", "a.b", "", " ", "é", '"', "'", "\\", "#", "=", "]", "\n"]) | TEXTS
TABLES = st.recursive(
    st.dictionaries(KEYS, SCALARS, max_size=3),
    lambda inner: st.dictionaries(
        KEYS,
        inner | st.lists(inner, min_size=1, max_size=3) | SCALARS | st.lists(SCALARS | inner | st.lists(SCALARS)),
        min_size=1,
        max_size=4,
    ),
    max_leaves=12,
)


@given(TABLES, st.integers(0, 2**32))
def test_every_document_is_found_however_it_is_written(document: dict[str, Any], seed: int):
    text = Writer(random.Random(seed)).document(document)
    assert tomllib.loads(text) == document
    check(text)


class Writer:
    """Writes a document as TOML, choosing at random among everything that TOML allows."""

    def __init__(self, choices: random.Random) -> None:
        self.pick: Callable[[Any], Any] = choices.choice
        self.shuffle = choices.shuffle

    def document(self, table: dict[str, Any]) -> str:
        own, rest = self.blocks(table, ())
        self.shuffle(rest)
        text = "".join([self.lines(), own, *rest])
        text = text if self.pick([True, False]) else text.removesuffix("\n")
        return text.replace("\n", self.pick(["\n", "\r\n"]))

    def blocks(self, table: dict[str, Any], path: tuple[str, ...]) -> tuple[str, list[str]]:
        """The key-values of a table, and its tables below that may stand in any order."""
        own, rest = [], []
        for key, value in table.items():
            below = (*path, key)
            if isinstance(value, dict) and self.pick([True, False]):
                body, blocks = self.blocks(value, below)
                if body or not blocks or self.pick([True, False]):
                    blocks.append(self.header("[", below, "]") + body)
                rest += blocks
            elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
                rest.append("".join(self.item(item, below) for item in value))
            else:
                own += [self.space() + pair + self.line_end() for pair in self.pairs((key,), value)]
        return "".join(own), rest

    def item(self, table: dict[str, Any], path: tuple[str, ...]) -> str:
        own, rest = self.blocks(table, path)
        self.shuffle(rest)
        return "".join([self.header("[[", path, "]]"), own, *rest])

    def header(self, opening: str, path: tuple[str, ...], closing: str) -> str:
        return self.space() + opening + self.space() + self.dotted(path) + self.space() + closing + self.line_end()

    def pairs(self, keys: tuple[str, ...], value: Any) -> list[str]:
        """A key-value, or several that write a table with dotted keys."""
        if isinstance(value, dict) and value and self.pick([True, False]):
            return [pair for key, item in value.items() for pair in self.pairs((*keys, key), item)]
        return [f"{self.dotted(keys)}{self.space()}={self.space()}{self.value(value)}"]

    def dotted(self, keys: tuple[str, ...]) -> str:
        return f"{self.space()}.{self.space()}".join(map(self.key, keys))

    def key(self, name: str) -> str:
        forms = [self.escaped(name)]
        if re.fullmatch("[A-Za-z0-9_-]+", name):
            forms += [name] * 3
        if not re.search(r"['\x00-\x08\x0a-\x1f\x7f]", name):
            forms.append(f"'{name}'")
        return str(self.pick(forms))

    def value(self, value: Any) -> str:
        match value:
            case bool():
                return str(value).lower()
            case str():
                return self.string(value)
            case int():
                forms = [str(value), f"{value:_}"]
                if value >= 0:
                    forms += [f"+{value}", f"0x{value:X}", f"0o{value:o}", f"0b{value:b}"]
                return self.pick(forms)
            case float():
                return self.pick([repr(value), repr(value).replace("e", "E")])
            case datetime():
                return self.pick([value.isoformat("T"), value.isoformat("t"), value.isoformat(" ")])
            case date() | time():
                return value.isoformat()
            case list():
                items = [self.gap() + self.value(item) + self.gap() for item in value]
                return f"[{','.join(items)}{self.pick([',', '']) if items else ''}{self.gap()}]"
        pairs = [self.space() + pair + self.space() for key, item in value.items() for pair in self.pairs((key,), item)]
        return f"{{{','.join(pairs) or self.space()}}}"

    def string(self, value: str) -> str:
        forms = [self.escaped(value)]
        plain = not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", value)
        first = self.pick(["", "\n"]) if not value.startswith("\n") else "\n"
        if plain and not re.search(r"[\n']", value):
            forms.append(f"'{value}'")
        if plain and not re.search(r"'{3}.", value, re.DOTALL) and not value.endswith("'''"):
            forms.append(f"'''{first}{value}'''")
        body = value.replace("\\", "\\\\").replace('"""', '""\\"')
        body = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", body)
        forms.append(f'"""{first}{body}"""')
        if not value.startswith(" "):  # which the escaped line end would take with it
            forms.append(f'"""\\ \n \n{self.escaped(value)[1:-1]}\\\n  """')
        return str(self.pick(forms))

    def escaped(self, value: str) -> str:
        harmless = set(string.ascii_letters + string.digits + " .#=[]{},'é😀")
        keep = self.pick([harmless, harmless, set()])
        short = self.pick(["\\u{:04x}", "\\U{:08X}"])
        return f'"{"".join(c if c in keep else self.escape(ord(c), short) for c in value)}"'

    def escape(self, code: int, short: str) -> str:
        return (short if code < 0x10000 else "\\U{:08X}").format(code)

    def space(self) -> str:
        return str(self.pick(["", "", " ", "\t "]))

    def comment(self) -> str:
        return str(self.pick(["", "", "# note", '#"""', "#'", "# é 😀 [x] = {y = ']'},"]))

    def line_end(self) -> str:
        return f"{self.space()}{self.comment()}\n{self.lines()}"

    def lines(self) -> str:
        return str(self.pick(["", "", "\n", " \t\n"])) + (f"{self.space()}{self.comment()}\n" * self.pick([0, 0, 1]))

    def gap(self) -> str:
        return str(self.pick([self.space(), self.line_end()]))
