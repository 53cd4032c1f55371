"""Codes and places of the problems of each wrong spec and override, and the whole message of one case per code.

Each case of `wrong/*.txt` is a title, a diff of `wrong/good.toml` (context lines find the place, `@@ base.toml` begins
another file), arguments and variables behind `$`, and below `---` one line per problem: code, places, path. A case with
the line `$ words` has the whole message below that.

    NOETHER_REWRITE_MESSAGES=1 pytest tests/specs/test_wrong_specs.py; git diff tests/specs/wrong

writes the present result, to be reviewed as a diff.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from noether.errors import SpecError
from noether.kernel.registry import Registry
from noether.spec.errors.problem import CODES, Problem, problems_in
from noether.spec.errors.words import toml_path, visible
from noether.spec.load import load_spec
from noether.spec.read.overrides import Unset

WRONG = Path(__file__).parent / "wrong"
GOOD = (WRONG / "good.toml").read_text()
NEEDS_MORE_THAN_A_FILE = {
    *("build-failed", "empty-dataset", "evaluation-failed", "forward-failed", "save-failed", "update-failed"),
    *("failed", "summed-loss"),
}
"""Codes of `check --deep`, and of errors that are not about a place in a spec."""
REWRITE = "NOETHER_REWRITE_MESSAGES" in os.environ


@dataclass
class Case:
    title: str
    source: str
    message: str
    diffs: dict[str, list[list[str]]] = field(default_factory=lambda: {"a.toml": [[]]})
    overrides: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    crlf: bool = False
    escapes: bool = False
    words: bool = False


def _cases(file: Path) -> list[Case]:
    blocks = re.split(r"^=== ", file.read_text(), flags=re.MULTILINE)[1:]
    return [_case(*block.partition("\n---\n")[::2]) for block in blocks]


def _case(source: str, message: str) -> Case:
    title, *lines = source.splitlines()
    case, name = Case(title, source, message.strip("\n")), "a.toml"
    for line in lines:
        if line.startswith("$ "):
            _direct(case, *line[2:].partition(" ")[::2])
        elif line.startswith("@@"):
            name = line[2:].strip() or name
            case.diffs.setdefault(name, []).append([])
        else:
            case.diffs[name][-1].append(line or " ")
    return case


def _direct(case: Case, word: str, rest: str) -> None:
    match word:
        case "-s":
            case.overrides.append(rest)
        case "--unset":
            case.overrides.append(Unset(rest))
        case "env":
            name, _, value = rest.partition("=")
            case.variables[name] = value
        case _:
            assert word in ("crlf", "escapes", "words"), word
            setattr(case, word, True)


def _files(case: Case) -> Iterator[tuple[str, str]]:
    for name, hunks in case.diffs.items():
        text = GOOD if name == "a.toml" else ""
        for hunk in hunks:
            old = "".join(f"{line[1:]}\n" for line in hunk if line[0] in " -")
            new = "".join(f"{line[1:]}\n" for line in hunk if line[0] in " +")
            assert old in text, f"{case.title}: {name} has no\n{old}"
            if case.escapes:
                new = (
                    new.replace("\\", "\\\\")
                    .replace("\\\\<", "\\")
                    .encode("latin-1", "backslashreplace")
                    .decode("unicode_escape")
                )
            text = text.replace(old, new, 1) if old else text + new
        yield name, text.replace("\n", "\r\n") if case.crlf else text


CASES = [pytest.param(case, id=case.title) for file in sorted(WRONG.glob("*.txt")) for case in _cases(file)]


def _told(case: Case, registry: Registry, folder: Path) -> str:
    for name, text in _files(case):
        (folder / name).write_text(text, encoding="utf-8", newline="")
    with pytest.raises(SpecError) as caught:
        load_spec(Path("a.toml"), case.overrides, registry=registry)
    error = caught.value
    told = "\n".join(map(_in_one_line, problems_in(error)))
    if case.words:
        told += f"\n\n{error.message}\nhelp: {error.hint}" if error.hint else f"\n\n{error.message}"
    return told.replace(str(folder), "FOLDER").replace(str(folder.parent), "OUTSIDE")


def _in_one_line(problem: Problem) -> str:
    places = ", ".join(f"{visible(place.origin)}:{place.line}:{place.column}" for place in problem.places)
    return " ".join(filter(None, (problem.code, places or "nowhere", visible(toml_path(problem.path)))))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, a project's root."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(REWRITE, reason="the messages are rewritten")
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_spec_has_these_problems(case: Case, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in case.variables.items():
        monkeypatch.setenv(name, value)
    assert _told(case, registry, folder) == case.message


def test_each_code_of_a_spec_has_a_case_with_its_message():
    shown = {line.partition(" ")[0] for case in CASES if case.values[0].words for line in _lines(case.values[0])}
    assert shown == CODES.keys() - NEEDS_MORE_THAN_A_FILE


def _lines(case: Case) -> list[str]:
    return case.message.partition("\n\n")[0].splitlines()


def test_the_spec_that_the_wrong_ones_change_is_right(registry: Registry):
    assert load_spec(WRONG / "good.toml", registry=registry).spec.name == "small"


def test_the_table_is_large_and_no_two_cases_have_one_title():
    titles = [case.id for case in CASES]
    assert len(set(titles)) == len(titles) >= 60


@pytest.mark.skipif(not REWRITE, reason="only with NOETHER_REWRITE_MESSAGES=1")
@pytest.mark.parametrize("file", sorted(WRONG.glob("*.txt")), ids=lambda file: file.stem)
def test_rewrite_the_messages(file: Path, registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch):
    written = file.read_text().partition("=== ")[0]
    for case in _cases(file):
        with monkeypatch.context() as patch:
            for name, value in case.variables.items():
                patch.setenv(name, value)
            written += f"=== {case.source}\n---\n{_told(case, registry, folder)}\n\n"
    file.write_text(written.rstrip() + "\n")
