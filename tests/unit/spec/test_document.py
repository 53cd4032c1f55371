import os
import time
from pathlib import Path

import pytest

from noether.errors import SpecError
from noether.spec.read.document import MAX_BYTES, read_document


def _refusal(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        read_document(path)
    return str(caught.value)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return tmp_path / "a.toml"


def test_a_document_keeps_its_text(spec: Path):
    spec.write_text("# note\nseed = 1\n")
    document = read_document(spec)
    assert document.text == "# note\nseed = 1\n"
    assert document.table == {"seed": 1}


def test_a_byte_order_mark_is_accepted(spec: Path):
    spec.write_bytes(b"\xef\xbb\xbfseed = 1")
    assert read_document(spec).table == {"seed": 1}


def test_a_missing_file_is_named(spec: Path):
    assert f"there is no spec file {spec}" in _refusal(spec)


def test_a_directory_is_refused_with_the_specs_that_it_holds(tmp_path: Path):
    (tmp_path / "b.toml").touch()
    message = _refusal(tmp_path)
    assert "is a directory, expected a spec file" in message
    assert "it holds b.toml" in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_without_waiting_for_a_writer(spec: Path):
    os.mkfifo(spec)
    assert "is no regular file" in _refusal(spec)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(spec: Path):
    spec.touch(mode=0)
    assert "cannot be read: Permission denied" in _refusal(spec)


def test_a_name_that_no_file_can_have_is_refused():
    assert "cannot be read" in _refusal(Path("a\0b"))


def test_a_file_above_the_limit_is_refused_unread(spec: Path):
    with spec.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would fill the memory
    assert f"too large for a spec: {1 << 40} bytes, at most {MAX_BYTES}" in _refusal(spec)


@pytest.mark.parametrize(("prefix", "offset"), [(b"", 9), (b"\xef\xbb\xbf", 12)])
def test_text_that_is_not_utf8_is_refused_with_the_offset(spec: Path, prefix: bytes, offset: int):
    spec.write_bytes(prefix + b'name = "a\xff"')
    assert f"not UTF-8: byte 0xff at offset {offset}" in _refusal(spec)


def test_a_nul_is_refused_with_its_place(spec: Path):
    spec.write_bytes(b"seed = 1\nna\0me = 2")
    assert "NUL character at line 2, column 3" in _refusal(spec)


def test_a_syntax_error_is_refused_with_its_place(spec: Path):
    spec.write_text("seed = 1\nname = small\n")
    message = _refusal(spec)
    assert message == (
        "error: not valid TOML: invalid value\n"
        f" --> {spec}:2:8\n"
        "  |\n"
        "2 | name = small\n"
        "  |        ^\n"
        "\n"
        f"1 problem in {spec}"
    )


def test_an_integer_of_too_many_digits_is_a_spec_error(spec: Path):
    spec.write_text("seed = " + "9" * 5000)
    assert "holds a value that cannot be read" in _refusal(spec)


HOSTILE = {
    "a dotted key of 20 000 parts": ".".join("a" * 20_000) + " = 1",
    "a table of 20 000 parts": "[" + ".".join("a" * 20_000) + "]",
    "deep lists": "a = " + "[" * 5_000 + "]" * 5_000,
    "deep inline tables": "a = " + "{a=" * 5_000 + "1" + "}" * 5_000,
    "half a million values": "a = [" + "1," * 500_000 + "]",
    "quotes without end": '\\"""' * 250_000,
    "a string without end": 'a = """' + "\\" * 1_000_000,
    "tables in tables": "[" + "]\n[".join(".".join(f"k{i}_{j}" for j in range(16)) for i in range(8_000)) + "]",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_at_once(spec: Path, text: str):
    spec.write_text(text)
    start = time.process_time()
    _refusal(spec)
    assert time.process_time() - start < 0.5


def test_depth_that_only_the_whole_document_shows_is_refused(spec: Path):
    key = ".".join("a" * 20)
    spec.write_text(f"[{key}]\n{key} = 1")
    assert "nested more than 32 deep" in _refusal(spec)
