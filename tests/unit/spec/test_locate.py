import tomllib

import pytest

from noether.spec.locate import Located, Locations, SourceText, Span, TomlPath

SPEC = """\
# what the model learns
name = "hügel 😀"  # unicode

[model]
kind = "mlp"
optimizer.lr = 1e-3
optimizer . "schedule" = { kind = "cosine", steps = [
    10,  # first
    [20, 0x1E],
] }

[[trainer.callbacks]]
kind = "ema"
[[trainer.callbacks]]
kind = "lr"
[[trainer.callbacks.eval]]
[trainer.callbacks.eval.deep]

[trainer]
note = \"\"\"
two
lines\"\"\"
"""


def where(span: Span | None, text: str = SPEC) -> tuple[str, int, int] | None:
    """The text of a span, and the line and column where it begins."""
    if span is None:
        return None
    place = SourceText("a.toml", text).place(span.start, span.end)
    return text[span.start : span.end], place.line, place.column


def of(*path: str | int, text: str = SPEC) -> Located:
    tomllib.loads(text)
    located = Locations(text).of(path)
    assert located is not None
    return located


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("name",), ("name", 2, 1), ('"hügel 😀"', 2, 8)),
        (("model", "kind"), ("kind", 5, 1), ('"mlp"', 5, 8)),
        (("model", "optimizer", "lr"), ("lr", 6, 11), ("1e-3", 6, 16)),
        (("model", "optimizer", "schedule", "kind"), ("kind", 7, 28), ('"cosine"', 7, 35)),
        (("model", "optimizer", "schedule", "steps", 0), None, ("10", 8, 5)),
        (("model", "optimizer", "schedule", "steps", 1), None, ("[20, 0x1E]", 9, 5)),
        (("model", "optimizer", "schedule", "steps", 1, 1), None, ("0x1E", 9, 10)),
        (("trainer", "callbacks", 0, "kind"), ("kind", 13, 1), ('"ema"', 13, 8)),
        (("trainer", "callbacks", 1, "kind"), ("kind", 15, 1), ('"lr"', 15, 8)),
        (("trainer", "note"), ("note", 20, 1), ('"""\ntwo\nlines"""', 20, 8)),
    ],
)
def test_a_value_is_found_with_its_key(path: TomlPath, key: object, value: object):
    located = of(*path)
    assert where(located.key) == key
    assert where(located.value) == value
    assert located.header is None


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_dotted_key_is_found_whole_and_by_its_last_part(line_end: str):
    text = SPEC.replace("\n", line_end)
    located = of("model", "optimizer", "schedule", text=text)
    assert where(located.key, text) == ('"schedule"', 7, 13)
    assert where(located.dotted, text) == ('optimizer . "schedule"', 7, 1)


def test_an_inline_table_is_found_over_several_lines():
    text, line, column = where(of("model", "optimizer", "schedule").value)
    assert text.startswith("{ kind")
    assert text.endswith("20, 0x1E],\n] }")
    assert (line, column) == (7, 26)


@pytest.mark.parametrize(
    ("path", "key", "header"),
    [
        (("model",), ("model", 4, 2), ("[model]", 4, 1)),
        (("trainer", "callbacks", 0), ("callbacks", 12, 11), ("[[trainer.callbacks]]", 12, 1)),
        (("trainer", "callbacks", 1), ("callbacks", 14, 11), ("[[trainer.callbacks]]", 14, 1)),
        (("trainer", "callbacks", 1, "eval", 0), ("eval", 16, 21), ("[[trainer.callbacks.eval]]", 16, 1)),
        (("trainer", "callbacks", 1, "eval", 0, "deep"), ("deep", 17, 25), ("[trainer.callbacks.eval.deep]", 17, 1)),
    ],
)
def test_a_table_is_found_at_its_header(path: TomlPath, key: object, header: object):
    located = of(*path)
    assert where(located.key) == key
    assert where(located.header) == header
    assert located.value is None


def test_a_table_with_a_late_header_is_found_there():
    assert where(of("trainer").header) == ("[trainer]", 19, 1)


def test_a_table_without_a_header_is_found_at_the_first_header_that_makes_it():
    text = "[a.b.c]\n[a.b.d]\n"
    assert where(of("a", "b", text=text).header, text) == ("[a.b.c]", 1, 1)
    assert where(of("a", "b", text=text).key, text) == ("b", 1, 4)


def test_a_table_of_dotted_keys_is_found_at_the_first_of_them():
    located = of("model", "optimizer")
    assert where(located.key) == ("optimizer", 6, 1)
    assert where(located.dotted) == ("optimizer.lr", 6, 1)
    assert located.header is located.value is None


def test_an_array_of_tables_is_found_at_its_first_item():
    assert where(of("trainer", "callbacks").header) == ("[[trainer.callbacks]]", 12, 1)


def test_a_subtable_belongs_to_the_last_item_so_far():
    locations = Locations("[[a]]\n[a.x]\n[[a]]\n[[a]]\n[a.y]\n")
    assert locations.of(("a", 0, "x")) is not None
    assert locations.of(("a", 1, "y")) is None
    assert locations.of(("a", 2, "y")) is not None


def test_a_key_is_found_by_the_name_that_it_means():
    text = """'a.b' = 1\n"" = 2\n"\\u00e9\\t\\"" = 3\n'\\t' = 4\n"""
    assert where(of("a.b", text=text).key, text) == ("'a.b'", 1, 1)
    assert where(of("", text=text).key, text) == ('""', 2, 1)
    assert where(of('é\t"', text=text).key, text) == ('"\\u00e9\\t\\""', 3, 1)
    assert where(of("\\t", text=text).key, text) == ("'\\t'", 4, 1)


def test_a_date_with_a_blank_is_one_value():
    text = "at = 1979-05-27 07:32:00-08:00 # then\nday = 1979-05-27 # 07:32\n"
    assert where(of("at", text=text).value, text) == ("1979-05-27 07:32:00-08:00", 1, 6)
    assert where(of("day", text=text).value, text) == ("1979-05-27", 2, 7)


@pytest.mark.parametrize(
    "string", ['""""a"b""c"""""', "''''a'b''c'''''", '"""\\\\\\""""', '""""""', "''''''", '"""\\\n  """']
)
def test_a_multi_line_string_ends_at_its_last_quote(string: str):
    text = f"a = {string} # end\nb = 1\n"
    assert where(of("a", text=text).value, text) == (string, 1, 5)
    assert of("b", text=text).value is not None


def test_what_is_not_written_is_not_found():
    locations = Locations(SPEC)
    assert locations.of(("model", "hidden")) is None
    assert locations.of(("trainer", "callbacks", 2)) is None
    assert locations.of(("trainer", "callbacks", "0")) is None


def test_a_path_that_is_not_written_leads_to_its_nearest_table():
    path, located = Locations(SPEC).nearest(("trainer", "callbacks", 1, "every", 3))
    assert path == ("trainer", "callbacks", 1)
    assert where(located.header) == ("[[trainer.callbacks]]", 14, 1)


def test_a_path_that_begins_nowhere_leads_to_the_document():
    assert Locations(SPEC).nearest(("loader", "num_workers")) == ((), Located(None, Span(0, len(SPEC)), None))


def test_an_empty_text_holds_the_document_alone():
    assert list(Locations("")) == [()]


def test_columns_count_characters():
    text = 'a = { "😀é" = 1, b = 2 }'
    assert where(of("a", "b", text=text).key, text) == ("b", 1, 17)


def test_only_line_feeds_end_lines():
    text = "# one\u2028line\x85still\na = 1\n"
    assert where(of("a", text=text).key, text) == ("a", 2, 1)


def test_values_nested_as_deep_as_a_spec_may_be_are_found():
    text = f"a = {'[' * 31}1{']' * 31}\nb = {'{c = ' * 31}2{'}' * 31}\n{'d.' * 31}d = 3\n"
    assert where(of("a", *[0] * 31, text=text).value, text) == ("1", 1, 36)
    assert where(of("b", *"c" * 31, text=text).value, text) == ("2", 2, 160)
    assert where(of(*"d" * 32, text=text).key, text) == ("d", 3, 63)
