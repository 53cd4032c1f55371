"""Whole messages as a user sees them."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noether.spec.errors.problem import InvalidSpecError, Problem, as_github, as_json, excerpt, problems_in
from noether.spec.locate import Place, SourceText

GOOD = """\
name = "a"

[datasets.train]
kind = "points"

[model]
kind = "net"

[trainer]
kind = "goal"
max_epochs = 3
effective_batch_size = 4

[[trainer.callbacks]]
kind = "note"
every_n_epochs = 1
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write `GOOD`, with changes, to `a.toml` in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOT_SET", raising=False)

    def write(old: str = "", new: str = "") -> Path:
        assert old in GOOD
        Path("a.toml").write_text(GOOD.replace(old, new, 1) if old else GOOD + new, newline="")
        return Path("a.toml")

    return write


MESSAGES = {
    "a wrong type": (
        "max_epochs = 3",
        'max_epochs = "3"  # three',
        'error[wrong-type]: found the string "3", expected an integer\n'
        "  --> a.toml:11:14   [trainer.max_epochs]\n"
        "   |\n"
        '11 | max_epochs = "3"  # three\n'
        "   |              ^^^\n\n1 problem in a.toml",
    ),
    "an unknown kind": (
        'kind = "note"',
        'kind = "nota"',
        "error[unknown-kind]: unknown callback kind 'nota'. Did you mean 'note'?\n"
        "  --> a.toml:15:8   [trainer.callbacks.0.kind]\n"
        "   |\n"
        '15 | kind = "nota"\n'
        "   |        ^^^^^^\n"
        "   = help: ",
    ),
    "a missing key of an inline table": (
        'kind = "net"',
        'kind = "net"\noptimizer = { lr = 1 }',
        'error[missing-key]: "kind" is missing, and it has no default\n'
        " --> a.toml:8:13   [model.optimizer.kind]\n"
        "  |\n"
        "8 | optimizer = { lr = 1 }\n"
        "  |             ^^^^^^^^^^\n"
        "  = help: noether plugins list shows the installed kinds\n\n1 problem in a.toml",
    ),
    "two keys that exclude each other": (
        "every_n_epochs = 1",
        "every_n_epochs = 1\nevery_n_updates = 2",
        "error[conflicting-keys]: found every_n_epochs and every_n_updates, expected one interval\n"
        "  --> a.toml:16:1   [trainer.callbacks.0]\n"
        "   |\n"
        "16 | every_n_epochs = 1\n"
        "   | ^^^^^^^^^^^^^^ first set here\n"
        "  --> a.toml:17:1\n"
        "   |\n"
        "17 | every_n_updates = 2\n"
        "   | --------------- and here\n\n1 problem in a.toml",
    ),
    "a value over several lines": (
        'kind = "net"',
        'kind = "net"\nbias = [\n 1,\n 2,\n]',
        "error[wrong-type]: found a list, expected true or false\n"
        " --> a.toml:8:8   [model.bias]\n"
        "  |\n"
        "8 | bias = […\n"
        "  |        ^…\n\n1 problem in a.toml",
    ),
    "a line with a tab": (
        "max_epochs = 3",
        "\tmax_epochs\t= true",
        "error[wrong-type]: found true, expected an integer\n"
        "  --> a.toml:11:15   [trainer.max_epochs]\n"
        "   |\n"
        "11 |     max_epochs    = true\n"
        "   |                     ^^^^\n\n1 problem in a.toml",
    ),
    "wide characters": (
        'name = "a"',
        'name = "数é数"',
        "error[wrong-value]: found the string \"数é数\", expected lower-case letters, digits, '.', '_' and '-', "
        "beginning with a letter or digit\n"
        " --> a.toml:1:8   [name]\n"
        "  |\n"
        '1 | name = "数é数"\n'
        "  |        ^^^^^^^\n\n1 problem in a.toml",
    ),
    "a file with carriage returns": (
        "\nmax_epochs = 3\n",
        "\r\nmax_epochs = -3\r\n",
        "error[out-of-range]: found the integer -3, expected at least 0\n"
        "  --> a.toml:11:14   [trainer.max_epochs]\n"
        "   |\n"
        "11 | max_epochs = -3\n"
        "   |              ^^\n\n1 problem in a.toml",
    ),
    "TOML that ends too early": (
        "",
        "x = [1,\n\n",
        "error[invalid-toml]: not valid TOML: invalid value at the end\n"
        "  --> a.toml:17:8\n"
        "   |\n"
        "17 | x = [1,\n"
        "   |        ^\n\n1 problem in a.toml",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_problem_is_shown_in_its_line(shown: Callable, written: Callable, old: str, new: str, message: str):
    found = shown(written(old, new))
    if message.endswith(": "):
        found = found[: len(message)]
    assert found == message


ARGUMENTS = {
    "a value": (
        "trainer.max_epochs=five",
        'error[wrong-type]: found the string "five", expected an integer\n'
        " --> command line, argument 2   [trainer.max_epochs]\n"
        "  |\n"
        "  | trainer.max_epochs=five\n"
        "  |                    ^^^^",
    ),
    "a value inside": (
        "model = {kind = 'net', bias = 3}",
        "error[wrong-type]: found the integer 3, expected true or false\n"
        " --> command line, argument 2   [model.bias]\n"
        "  |\n"
        "  | model = {kind = 'net', bias = 3}\n"
        "  |                               ^",
    ),
    "a part of a path": (
        "trainer.callbacks[nota].id=x",
        "error[unknown-path]: trainer.callbacks has no item with id \"nota\". Did you mean 'note'?\n"
        " --> command line, argument 2   [trainer.callbacks]\n"
        "  |\n"
        "  | trainer.callbacks[nota].id=x\n"
        "  |                  ^^^^^^\n"
        "  = help: it has note",
    ),
    "an unclosed string": (
        'output="abc',
        "error[invalid-override]: not valid TOML: unterminated string at the end\n"
        " --> command line, argument 2\n"
        "  |\n"
        '  | output="abc\n'
        "  |            ^\n"
        "  = help: quote a string: -s 'output=\"abc\"'",
    ),
    "a bad path": (
        "trainer..x=1",
        'error[invalid-override]: malformed path: found "." at character 9, expected a key\n'
        " --> command line, argument 2\n"
        "  |\n"
        "  | trainer..x=1\n"
        "  |         ^\n"
        "  = help: a path is written trainer.callbacks[ema].every_n_epochs; quote keys with other characters",
    ),
    "what excludes what the file says": (
        "trainer.callbacks.0.every_n_updates=2",
        "error[conflicting-keys]: found every_n_epochs and every_n_updates, expected one interval\n"
        "  --> a.toml:16:1   [trainer.callbacks.0]\n"
        "   |\n"
        "16 | every_n_epochs = 1\n"
        "   | ^^^^^^^^^^^^^^ first set here\n"
        "  --> command line, argument 2\n"
        "   |\n"
        "   | trainer.callbacks.0.every_n_updates=2\n"
        "   | ----------------------------------- and here",
    ),
}


@pytest.mark.parametrize(("argument", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_problem_of_an_override_is_shown_in_the_argument(shown: Callable, written: Callable, argument, message):
    assert shown(written(), ["seed=1", argument]) == f"{message}\n\n1 problem in a.toml"


def test_problems_are_sorted_by_file_and_position(load: Callable, written: Callable):
    Path("b.toml").write_text('seed = "x"\nthreads = "x"')
    path = written('name = "a"', 'zzz = 1\nextends = ["b.toml"]\naaa = 1')
    overrides = [*(f"x{number}=1" for number in range(11))]
    with pytest.raises(InvalidSpecError) as caught:
        load(path, overrides)
    paths = [".".join(map(str, problem.path)) for problem in caught.value.problems]
    assert paths == ["zzz", "aaa", "seed", "threads", *(f"x{number}" for number in range(11))]


def test_of_very_many_problems_the_first_are_shown_and_all_are_counted(shown: Callable, written: Callable):
    text = shown(written("", "[loader]\n" + "\n".join(f"k{number} = 1" for number in range(500))))
    assert text.count("error[unknown-key]: ") == 100
    assert text.endswith("500 problems in a.toml; the first 100 are shown")


def test_a_very_long_line_is_cut_around_what_is_meant():
    text = "a" * 5000 + "XYZ" + "b" * 5000
    line, carets = excerpt(SourceText("a", text).place(5000, 5003))
    assert line == "…" + "a" * 40 + "XYZ" + "b" * 40 + "…"
    assert carets == " " * 41 + "^^^"


def test_a_very_long_value_is_cut_itself():
    line, carets = excerpt(SourceText("a", "x = " + "y" * 5000).place(4, 5004))
    assert line == "x = " + "y" * 60 + "…"
    assert carets == "    " + "^" * 61


def test_control_and_direction_characters_are_shown_as_escapes():
    line, carets = excerpt(SourceText("a", "a\x1b[31m\u202eb").place(6, 8))
    assert line == r"a\x1b[31m\u202eb"
    assert carets == " " * 9 + "^" * 7


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.data())
def test_marks_stand_below_what_they_mark(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    place = SourceText("a", text).place(start, end)
    assert (place.line, place.column) == (text.count("\n", 0, start) + 1, start - (text.rfind("\n", 0, start) + 1) + 1)
    line, marks = excerpt(place)
    assert line.isprintable()
    assert re.fullmatch(r" *\^+…?", marks)
    assert len(line) <= 2 * 40 + 60 + 3 or len(place.text) <= 120 or not place.text.isprintable()


def test_a_combining_character_takes_no_column():
    text = "e" + unicodedata.lookup("COMBINING ACUTE ACCENT") + " = 1"
    assert excerpt(SourceText("a", text).place(5, 6))[1] == "    ^"


PROBLEM = Problem(
    "wrong-value",
    ("a", 0, "b c"),
    "100% wrong:\nreally",
    "do, this",
    (
        Place("x,y:1.toml", 2, 3, 4, 5, "…"),
        Place("command line, argument 1", 1, 2, 1, 3, "a=1", is_file=False),
    ),
)


def test_problems_as_json():
    assert json.loads(as_json([PROBLEM, Problem("failed", (), "no")])) == [
        {
            "code": "wrong-value",
            "path": 'a.0."b c"',
            "message": "100% wrong:\nreally",
            "hint": "do, this",
            "places": [
                {"file": "x,y:1.toml", "line": 2, "column": 3, "endLine": 4, "endColumn": 5},
                {"file": "command line, argument 1", "line": 1, "column": 2, "endLine": 1, "endColumn": 3},
            ],
        },
        {"code": "failed", "path": "", "message": "no", "hint": None, "places": []},
    ]


def test_problems_for_github():
    assert as_github([PROBLEM, Problem("failed", (), "no")]) == (
        '::error file=x%2Cy%3A1.toml,line=2,col=3,title=wrong-value::a.0."b c": 100%25 wrong:%0Areally%0A'
        "also: command line, argument 1: a=1%0Ahelp: do, this\n::error title=failed::no"
    )


def test_for_github_the_second_place_is_a_part_of_the_message(written: Callable, load: Callable):
    with pytest.raises(InvalidSpecError) as caught:
        load(written("every_n_epochs = 1", "every_n_epochs = 1\nevery_n_updates = 2"))
    assert as_github(caught.value.problems) == (
        "::error file=a.toml,line=16,col=1,title=conflicting-keys::trainer.callbacks.0: "
        "found every_n_epochs and every_n_updates, expected one interval%0Aand here: a.toml:17:1"
    )


def test_colour_only_where_asked_for(written: Callable, load: Callable):
    with pytest.raises(InvalidSpecError) as caught:
        load(written(), ["seed=x"])
    plain, colored = caught.value.rendered(), caught.value.rendered(color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == plain
    assert "\x1b[1;31merror" in colored
    assert len(problems_in(caught.value)) == 1
