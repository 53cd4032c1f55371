from noether.errors import SpecError
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.words import quoted, toml_path


def test_a_path_is_written_as_toml_writes_it():
    assert toml_path(("expect", "loss/test", "a b", 1, "x-y_z")) == 'expect."loss/test"."a b".1.x-y_z'


def test_indices_sort_as_numbers():
    error = InvalidSpecError([Problem(("a", 10), "x"), Problem(("a", 9), "y", "z")], origin="a.toml")
    assert isinstance(error, SpecError)
    assert [problem.path for problem in error.problems] == [("a", 9), ("a", 10)]
    assert error.message.endswith("\n2 problems in a.toml")


def test_long_text_is_cut():
    assert quoted("a" * 100) == '"' + "a" * 60 + '…"'
