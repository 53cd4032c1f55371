import re
from pathlib import Path

import pytest

import noether
from noether.errors import SpecError
from noether.spec.errors.problem import CODES, InvalidSpecError, Problem
from noether.spec.errors.words import quoted, toml_path


def test_a_path_is_written_as_toml_writes_it():
    assert toml_path(("expect", "loss/test", "a b", 1, "x-y_z")) == 'expect."loss/test"."a b".1.x-y_z'


def test_indices_sort_as_numbers():
    problems = [Problem("unknown-key", ("a", 10), "x"), Problem("wrong-type", ("a", 9), "y", "z")]
    error = InvalidSpecError(problems, origin="a.toml")
    assert isinstance(error, SpecError)
    assert [problem.path for problem in error.problems] == [("a", 9), ("a", 10)]
    assert error.message.endswith("\n2 problems in a.toml")


def test_an_unregistered_code_is_refused():
    with pytest.raises(ValueError) as caught:
        Problem("no-such-code", (), "x")
    assert "no-such-code" in str(caught.value)


def test_every_code_in_the_package_is_registered_and_every_registered_code_is_used():
    files = Path(noether.__file__).parent.rglob("*.py")
    written = "\n".join(path.read_text() for path in files if path.stem != "codes")
    passed = re.findall('code="([^"]*)"', written)
    assert set(passed) <= CODES.keys()
    assert {code for code in CODES if f'"{code}"' not in written} == set()


def test_a_code_is_documented_in_one_line():
    assert [name for name, code in CODES.items() if "\n" in code.meaning or not code.meaning.endswith(".")] == []


def test_long_text_is_cut():
    assert quoted("a" * 100) == '"' + "a" * 60 + '…"'
