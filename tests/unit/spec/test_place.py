import pytest

from noether.spec.locate import SourceText


def place(text: str, offset: int) -> tuple[int, int, str]:
    found = SourceText("a.toml", text).place(offset, offset)
    return found.line, found.column, found.text


def test_an_empty_text_has_one_line():
    assert place("", 0) == (1, 1, "")


def test_the_end_of_the_text_has_a_line_and_column():
    assert place("a = 1", 5) == (1, 6, "a = 1")
    assert place("a = 1\n", 6) == (2, 1, "")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_line_is_shown_without_its_end(line_end: str):
    text = f"a = 1{line_end}{line_end}b = 2 # é"
    offsets = (0, len(f"a = 1{line_end}"), len(text))
    assert [place(text, offset)[2] for offset in offsets] == ["a = 1", "", "b = 2 # é"]


def test_only_line_feeds_end_lines():
    text = "# one\u2028line\x85still\na = 1\n"
    assert place(text, 10) == (1, 11, "# one\u2028line\x85still")
    assert place(text, text.index("a = 1"))[:2] == (2, 1)


@pytest.mark.parametrize(("line", "column", "offset"), [(1, 1, 0), (2, 3, 8), (2, 99, 11), (9, 1, 11)])
def test_a_line_and_column_have_an_offset_in_the_text(line: int, column: int, offset: int):
    assert SourceText("a.toml", "a = 1\nb = 2").offset(line, column) == offset
