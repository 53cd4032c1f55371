import string

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.read.overrides import ItemId, parse_override

VALUES = {
    "5": 5,
    "1e-3": 0.001,
    "-2": -2,
    "true": True,
    '"true"': "true",
    "inf": float("inf"),
    "[1, 2]": [1, 2],
    "{kind = 'a', b = 1}": {"kind": "a", "b": 1},
    "cuda:1": "cuda:1",
    "a=b": "a=b",
    "/data/set": "/data/set",
    "truely": "truely",
    "info": "info",
    '""': "",
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_a_value_is_toml_and_a_bare_word_is_a_string(text: str, value: object):
    assert parse_override(f"a.b={text}").value == value


@pytest.mark.parametrize(
    "value",
    [
        '"open',
        "1.2.3",
        "-runs",
        "+x",
        "2024-runs",
        "'a'b",
        "true false",
        "nan-loss",
        "1\nb = 2",
    ],
)
def test_a_value_that_begins_like_toml_and_is_none_is_refused(value: str):
    (problem,) = _problems(f"a={value}")
    assert problem.code == "invalid-override"
    assert problem.hint.startswith("quote a string")


CURES = {
    "name=3d": """quote a string: -s 'name="3d"'""",
    "a.b += -runs": """quote a string: -s 'a.b +="-runs"'""",
    'output="abc': """quote a string: -s 'output="abc"'""",
    "name='a'b": """quote a string: -s 'name="a\'\\\'\'b"'""",
    "name=1" + "x" * 100: """quote a string: -s 'path="value"'""",
    "name=3\x1b": r"""quote a string: -s 'name="3\u001b"'""",
    "a=[x, 'y']": """words inside brackets need quotes: -s 'a=["x", '\\''y'\\'']'""",
    'a=[x, "y", true, 1]': """words inside brackets need quotes: -s 'a=["x", "y", true, 1]'""",
    "model={kind=mlp, hidden=[3]}": """words inside brackets need quotes: -s 'model={kind="mlp", hidden=[3]}'""",
    "a={b=x": """words inside brackets need quotes: -s 'path="value"'""",
    "a=[1, 2": None,
    "a={b = 1": None,
}


@pytest.mark.parametrize(("argument", "cure"), CURES.items(), ids=[*map(str, range(len(CURES)))])
def test_the_hint_shows_the_command_as_the_user_typed_it(argument: str, cure: str | None):
    assert _problems(argument)[0].hint == cure


PATHS = {
    "seed": ("seed",),
    "trainer.max_epochs": ("trainer", "max_epochs"),
    'expect."loss/test/total".max': ("expect", "loss/test/total", "max"),
    "expect.'a=b'": ("expect", "a=b"),
    'a."x.y[z]=1"': ("a", "x.y[z]=1"),
    r'a."q\"=\""': ("a", 'q"="'),
    "trainer.callbacks[ema].every_n_epochs": ("trainer", "callbacks", ItemId("ema"), "every_n_epochs"),
    "callbacks[a=b]": ("callbacks", ItemId("a=b")),
    "trainer.callbacks.0.id": ("trainer", "callbacks", "0", "id"),
    " seed ": ("seed",),
    r'"a\\"': ("a\\",),
    r"'a\'": ("a\\",),
}


@pytest.mark.parametrize(("path", "parts"), PATHS.items())
def test_a_path_is_keys_indices_and_ids(path: str, parts: tuple):
    override = parse_override(f"{path}=1")
    assert (override.path, override.value) == (parts, 1)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("seed", 1, 5),
        ("a[b=1", 1, 6),
        ('a."b=1', 1, 7),
        ("=1", 1, 1),
        ("a.=1", 3, 3),
        ("a..b=1", 3, 4),
        ("a b=1", 2, 3),
        ("+=1", 1, 1),
        ("trainer.callbacks++={}", 18, 19),
        (r'"\q"=1', 1, 5),
        ("a=", 3, 3),
        ("a=" + "[" * 50 + "]" * 50, 35, 36),
        (".".join("a" * 40) + "=1", 66, 67),
    ],
)
def test_a_malformed_override_is_refused_where_it_is(text: str, start: int, end: int):
    (problem,) = _problems(text)
    (place,) = problem.places
    assert (problem.code, place.column, place.end_column) == ("invalid-override", start, end)


def _problems(argument: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidSpecError) as caught:
        parse_override(argument)
    return caught.value.problems


KEYS = st.text(string.ascii_letters + "_-" + string.digits, min_size=1) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=0
)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def _toml_key(key: str) -> str:
    return tomli_w.dumps({key: 0}).rpartition(" = 0")[0]


def _toml_value(value: object) -> str:
    """Return a value on one line, tables inline, with the library's own quoting."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


@settings(deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=5), TREES)
def test_any_path_and_any_value_come_back(keys: list[str], value: object):
    override = parse_override(".".join(map(_toml_key, keys)) + "=" + _toml_value(value))
    assert override.path == tuple(keys)
    assert override.value == value


@settings(deadline=None)
@given(st.text())
def test_any_text_is_an_override_or_a_spec_error(text: str):
    try:
        parse_override(text)
    except InvalidSpecError as error:
        (place,) = error.problems[0].places
        lines = text.split("\n")
        assert 1 <= place.line <= len(lines)
        assert 1 <= place.column <= len(lines[place.line - 1]) + 1
