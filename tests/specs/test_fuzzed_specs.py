"""Random typing errors in a good spec: it loads, or its problems point into the file.

The long tier tries thousands: `pytest -m long tests/specs/test_fuzzed_specs.py`.
"""

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noether.errors import NoetherError
from noether.kernel.registry import Registry, active_registry
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.load import load_spec
from noether.spec.locate import Place
from noether.spec.read.document import read_document

SPECS = Path(__file__).parents[2] / "specs"
WRONG = Path(__file__).parent / "wrong"
PLUGIN_SPECS = {"darcy"}  # tested by the plugins that they need
GOOD = [
    path.read_text() for path in (WRONG / "good.toml", *sorted(SPECS.rglob("*.toml"))) if path.stem not in PLUGIN_SPECS
]
ADDITION = """
[[transforms]]
kind = "normalize"
properties = ["image"]

[[trainer.callbacks]]
id = "outer"
kind = "average"
every_n_epochs = 1
eval_callbacks = [{ kind = "offline-loss", every_n_epochs = 1, dataset_key = "test" }]

[loader]
num_workers = 2

[checkpoints]
keep_last = 1
"""
GOOD.append(GOOD[0] + ADDITION)
SPICE = [
    *"[]{}=.,\"'\\#\n\r\t \0\x1b0-_é日\u202e\ufeff",
    '"""',
    "'''",
    "[[",
    "]]",
    "\r\n",
    "\\u0041",
    "1979-05-27",
    "nan",
]
VALUES = st.recursive(
    st.none().map(lambda _: "")
    | st.booleans()
    | st.integers(-3, 2**63 - 1)
    | st.floats()
    | st.sampled_from(
        ["mlp", "AdamW", "offline-loss", "test", "os.system", "torch.nn.Linear", "average/average", "../x"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(["kind", "env", "id", "lr", "a b"]), below)
    ),
    max_leaves=5,
)
KEYS = ["kind", "id", "env", "remove", "extends", "train", "max_epochs", "every_n_epochs", "callbacks", "a b", "é", ""]
NORMAL = {"max_examples": 150}
LONG = {"max_examples": 2_000}
FIXTURES_STAY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@st.composite
def mistyped(draw: st.DrawFn) -> str:
    """A good spec after a few slips of an editor: lines and characters lost, doubled, swapped or put in."""
    lines = draw(st.sampled_from(GOOD)).splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        line, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match draw(st.sampled_from(["delete", "double", "swap", "flip", "cut", "put"])):
            case "delete" if len(lines) > 1:
                del lines[line]
            case "double":
                lines.insert(other, lines[line])
            case "swap":
                lines[line], lines[other] = lines[other], lines[line]
            case "cut":
                lines[line] = lines[line][: draw(st.integers(0, len(lines[line])))]
            case how:
                place = draw(st.integers(0, max(len(lines[line]) - 1, 0)))
                behind = place + (how == "flip")
                lines[line] = lines[line][:place] + draw(st.sampled_from(SPICE)) + lines[line][behind:]
    return "".join(lines)


@st.composite
def miswritten(draw: st.DrawFn) -> str:
    """A good spec with some values, types and keys changed, and tables nested, that is still TOML."""
    table = copy.deepcopy(draw(st.sampled_from([tomllib.loads(text) for text in GOOD])))
    for _ in range(draw(st.integers(1, 4))):
        holder, key = draw(st.sampled_from(_places(table) or [(table, "seed")]))
        match draw(st.sampled_from(["replace", "rename", "remove", "nest", "add", "double"])):
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(KEYS))] = holder.pop(key)
            case "remove":
                del holder[key]
            case "nest":
                holder[key] = draw(st.sampled_from([lambda item: [item], lambda item: {"kind": item}]))(holder[key])
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(KEYS))] = draw(VALUES)
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case _:
                holder[key] = draw(VALUES)
    return tomli_w.dumps(table)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each place of a document as the table or list that holds it, and its key or index."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in [(value, key), *_places(item)]]


@pytest.fixture
def check(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Loads a spec and looks at the places that it reports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()

    def load(text: str) -> None:
        path = Path("a.toml")
        path.write_text(text, encoding="utf-8", newline="")
        try:
            load_spec(path, registry=active_registry())
        except InvalidSpecError as error:
            lines = read_document_lines(path)
            for problem in error.problems:
                for place in problem.places:
                    _lies_inside(place, lines)
            assert all(problem.places for problem in error.problems), error.message
        except NoetherError as error:
            assert error.message

    return load


def read_document_lines(path: Path) -> list[str]:
    """Return the lines that an editor shows, without the byte order mark."""
    return [line.removesuffix("\r") for line in path.read_bytes().decode("utf-8-sig").split("\n")]


def _lies_inside(place: Place, lines: list[str]) -> None:
    assert place.origin == "a.toml"
    assert 1 <= place.line <= place.end_line <= len(lines)
    assert place.text == lines[place.line - 1]
    assert 1 <= place.column <= len(lines[place.line - 1]) + 1
    assert 1 <= place.end_column <= len(lines[place.end_line - 1]) + 2  # a `\r` counts
    assert (place.line, place.column) <= (place.end_line, place.end_column)


@settings(**NORMAL, **FIXTURES_STAY)
@given(text=mistyped())
def test_a_mistyped_spec_loads_or_is_reported(check: Callable[[str], None], text: str):
    check(text)


@settings(**NORMAL, **FIXTURES_STAY)
@given(text=miswritten())
def test_a_miswritten_spec_loads_or_is_reported(check: Callable[[str], None], text: str):
    check(text)


@pytest.mark.long
@pytest.mark.slow  # for whoever leaves the slow ones out with a -m of their own
@pytest.mark.timeout(1200)
@settings(**LONG, **FIXTURES_STAY)
@given(text=mistyped())
def test_thousands_of_mistyped_specs_load_or_are_reported(check: Callable[[str], None], text: str):
    check(text)


@pytest.mark.long
@pytest.mark.slow  # for whoever leaves the slow ones out with a -m of their own
@pytest.mark.timeout(1200)
@settings(**LONG, **FIXTURES_STAY)
@given(text=miswritten())
def test_thousands_of_miswritten_specs_load_or_are_reported(check: Callable[[str], None], text: str):
    check(text)


@pytest.mark.parametrize("text", GOOD)
def test_the_specs_that_are_changed_are_good(check: Callable[[str], None], text: str):
    Path("a.toml").write_text(text)
    load_spec(Path("a.toml"), registry=active_registry())
    assert read_document(Path("a.toml")).table
