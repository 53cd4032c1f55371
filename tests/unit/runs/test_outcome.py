"""The text of an error, as records, logs and messages show it."""

import pytest

from noether.errors import DataError
from noether.runs.outcome import describe


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(), "SystemExit"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError("a: "), "ValueError: a"),
        (DataError("no samples"), "no samples"),
    ],
)
def test_an_exception_is_class_and_text_and_without_a_text_the_class_alone(error, text):
    assert describe(error) == text
