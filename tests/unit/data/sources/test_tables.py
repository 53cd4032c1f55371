"""Tables as people have them: delimiters, missing values, texts as categories, several files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from noether.data.sources.file import FileConfig, FileDataset
from noether.errors import DataError

MATERIALS = {"material": ["aluminium", "steel"]}


def read(path: Path, text: str | bytes | None = None, **options: Any) -> FileDataset:
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    return FileDataset(FileConfig.model_validate({"path": str(path), **options}))


def refusal(path: Path, text: str | bytes | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, text, **options)
    return f"{caught.value.message} {caught.value.hint}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "beam.csv"


# Forms


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(path: Path, delimiter: str) -> None:
    text = "\ufeffa,b,c\n1,2.5,no\u2028line end\n3,4,x\n".replace(",", delimiter)
    dataset = read(path, text, properties={"a": "a", "b": "b"})
    assert dataset.properties["b"].tolist() == [2.5, 4]
    assert dataset.properties["a"].tolist() == [1, 3]


def test_a_tsv_has_tabs_between_columns(path: Path) -> None:
    assert read(path.with_suffix(".tsv"), "a\tb\n1\t2.5\n").properties["b"].tolist() == [2.5]


def test_several_possible_delimiters_need_a_choice(path: Path) -> None:
    text = "a;b|c\n1;2|3\n"
    assert "delimiter = " in refusal(path, text)
    assert list(read(path, delimiter="|", properties={"c": "c"})[0]) == ["c"]


def test_quoted_fields_may_hold_delimiters_and_line_ends(path: Path) -> None:
    text = 'note,x\n"a, b",1\n"two\nlines",2\n'
    assert read(path, text, properties={"x": "x"}).properties["x"].tolist() == [1, 2]


def test_decimal_commas_are_refused_until_they_are_asked_for(path: Path) -> None:
    text = "a;b\n1,5;x\n2,25;x\n"
    assert 'decimal = ","' in refusal(path, text, properties={"a": "a"})
    assert read(path, decimal=",", properties={"a": "a"}).properties["a"].tolist() == [1.5, 2.25]


def test_a_comma_that_may_mean_thousands_is_never_guessed(path: Path) -> None:
    assert "1234 or 1.234" in refusal(path, 'a\n"1,234"\n"2,500"\n')


def test_whole_numbers_that_turn_into_fractions_late_in_a_large_file_are_fractions(path: Path) -> None:
    text = "a\n" + "1\n" * 600_000 + "0.5\n"
    assert read(path, text).properties["a"][-1] == 0.5


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        ("größe,x\n1,2\n".encode("latin-1"), "byte 0xf6 in line 1"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"1.5,2\n3,4\n", "no header"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: found 3, expected 2"),
        (b"a,b\n", "no samples"),
        (b"a,b", "no samples: found a header alone"),
        (b"a,b\n1,1_000\n2,2_000\n", "categories = {"),
        (b"a,b\n1,2026-1-1\n2,2026-1-2\n", "write dates as 2026-01-31"),
        (b"a,b\n1,\n2,3\n4,NA\n", "found 2 of 3 rows without one, the first is row 1 below the header, then row 3"),
        (b"a,b\n1,2\n2,3\n4,about 3\n", '"about 3" in row 3 below the header among numbers'),
        (b"a,b\n1,2024-01-31\n2,2024-02-01\n", "split_time"),
        (b"a,b\n1,31.1.2024\n2,1.2.2024\n", "write dates as 2026-01-31"),
        (b"a,b\n1,5 kN\n2,7 kN\n", "plain numbers"),
        (b"a,b\n1,steel\n2,wood\n", 'categories = { b = ["steel", "wood"] }'),
        (b"a,a\n1,2\n", "'a' 2 times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_said_with_its_place(path: Path, content: bytes, told: str) -> None:
    assert told in refusal(path, content)


@pytest.mark.parametrize(("name", "told"), [("beam.csv.gz", "gunzip"), ("beam.txt", "rename"), ("beam.x", "disk")])
def test_a_file_of_another_format_says_what_to_do(path: Path, name: str, told: str) -> None:
    assert told in refusal(path.with_name(name), "a,b\n1,2\n")


# Categories


def test_a_category_alone_is_its_number_and_one_hot_in_a_list(path: Path) -> None:
    text = "load,material\n1.5,steel\n2.5, aluminium \n"
    properties = {"x": ["load", "material"], "material_target": "material"}
    dataset = read(path, text, properties=properties, categories=MATERIALS)
    assert dataset.properties["x"].tolist() == [[1.5, 0, 1], [2.5, 1, 0]]
    assert dataset.properties["material_target"].tolist() == [1, 0]


def test_numbers_and_flags_can_be_categories(path: Path) -> None:
    text = "grade,flag\n007,True\n7,False\n"
    dataset = read(path, text, categories={"grade": ["007", "7"], "flag": ["False", "True"]})
    assert dataset.properties["grade"].tolist() == [0, 1]
    assert dataset.properties["flag"].tolist() == [1, 0]


def test_texts_of_parquet_are_categories(path: Path) -> None:
    file = path.with_suffix(".parquet")
    parquet.write_table(pa.table({"m": pa.array(["b", "a", "b"]).dictionary_encode(), "n": [1, 2, 1]}), file)
    dataset = read(file, categories={"m": ["a", "b"], "n": ["2", "1"]})
    assert dataset.properties["m"].tolist() == [1, 0, 1]
    assert dataset.properties["n"].tolist() == [1, 0, 1]


def test_an_unknown_category_is_named_with_its_row(path: Path) -> None:
    message = refusal(path, "material\nsteel\ncopper\ncopper\n", categories=MATERIALS)
    assert '"copper" in row 2 below the header and 1 more rows' in message
    assert '"aluminium", "steel"' in message


def test_na_may_be_a_category(path: Path) -> None:
    assert read(path, "land\nNA\nDE\n", categories={"land": ["DE", "NA"]}).properties["land"].tolist() == [1, 0]
    assert "missing values" in refusal(path, "land\nNA\nDE\n", categories={"land": ["DE"]})


# Missing values


def test_rows_that_lack_a_used_value_are_left_out_on_request(path: Path) -> None:
    text = "a,b,c,unused\n1,2.5,x,\n,3.5,x,1\n3,4.5,NA,\n4,,y,1\n5,6.5,y,\n"
    properties = {"x": ["a", "b"], "c_target": "c"}
    dataset = read(path, text, properties=properties, categories={"c": ["x", "y"]}, missing="drop")
    assert dataset.properties["x"].tolist() == [[1, 2.5], [5, 6.5]]


def test_a_table_without_a_complete_row_is_refused(path: Path) -> None:
    assert "every row lacks a value" in refusal(path, "a,b\n1,\n,2\n", missing="drop")


# Several files


def test_files_that_fit_a_pattern_are_read_in_the_order_of_their_names(path: Path) -> None:
    read(path.with_name("p2.csv"), "b,a\n0.5,3\n")
    read(path.with_name("p1.csv"), "a,b\n1,2\n")
    dataset = read(path.with_name("p*.csv"))
    assert dataset.properties["a"].tolist() == [1, 3]
    assert dataset.properties["b"].tolist() == [2, 0.5]


def test_a_file_that_differs_from_the_others_is_named(path: Path) -> None:
    for name, text in {"p1": "a,b\n1,2\n", "p2": "a,c\n1,2\n"}.items():
        path.with_name(f"{name}.csv").write_text(text)
    message = refusal(path.with_name("p*.csv"))
    assert "p2.csv" in message
    assert "the difference is b, c" in message
    path.with_name("p2.csv").write_text("a,b\n1,2\n3,steel\n")
    assert "p2.csv: different types of b" in refusal(path.with_name("p*.csv"))
    path.with_name("p2.csv").write_text("a,b\n1,2\n3,\n")
    assert "row 2 of p2.csv" in refusal(path.with_name("p*.csv"))


def test_a_pattern_that_fits_nothing_is_refused(path: Path) -> None:
    assert "no file fits" in refusal(path.with_name("q*.csv"))


def test_a_resume_compares_the_files_of_a_pattern(path: Path) -> None:
    files = [path.with_name(f"p{number}.csv") for number in (1, 2)]
    for file in files:
        file.write_text("a\n1\n")
    config = FileConfig.model_validate({"kind": "file", "path": str(path.with_name("p*.csv"))})
    assert config.compared_files() == files


# Splits by a column


def test_groups_may_be_texts_that_are_no_property(path: Path) -> None:
    text = "wing,x\n" + "".join(f"w{number % 7},{number}\n" for number in range(70))
    options = {"properties": {"x": "x"}, "split_by": "wing"}
    parts = {part: read(path, text, split=part, **options).properties["x"] for part in ("train", "test")}
    wings = {part: {int(x) % 7 for x in values} for part, values in parts.items()}
    assert len(wings["train"] | wings["test"]) == 7
    assert not wings["train"] & wings["test"]


def test_times_may_be_dates(path: Path) -> None:
    text = "day,x\n" + "".join(f"2024-01-{(number * 9) % 28 + 1:02},{(number * 9) % 28 + 1}\n" for number in range(28))
    found = read(path, text, properties={"x": "x"}, split="test", split_time="day", test_fraction=0.25)
    assert sorted(found.properties["x"].tolist()) == list(range(22, 29))


def test_times_that_are_texts_are_refused(path: Path) -> None:
    text = "day,x\n" + "".join(f"{number}.1.2024,{number}\n" for number in range(1, 29))
    options = {"properties": {"x": "x"}, "split": "test", "split_time": "day"}
    assert 'text "1.1.2024" in row 1' in (message := refusal(path, text, **options))
    assert "or dates such as 2026-01-31" in message
    assert "or dates" in refusal(path, "day,x\n" + "1,2\n" * 9, categories={"day": ["1"]}, **options)
