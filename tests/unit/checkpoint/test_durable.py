"""Files that exist completely or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint import durable
from noether.checkpoint.durable import replace_file, storage_error, write_new_file
from noether.errors import StorageError

Failing = Callable[[int], AbstractContextManager[Any]]


def test_a_new_file_holds_what_was_written(tmp_path: Path) -> None:
    write_new_file(tmp_path / "a", [b"by", b"tes"])
    assert (tmp_path / "a").read_bytes() == b"bytes"


def test_a_new_file_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_new_file(tmp_path / "a", [b"new"])
    assert (tmp_path / "a").read_bytes() == b"old"


def test_replacing_leaves_the_new_file_alone_in_the_folder(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        replace_file(tmp_path / "a", data)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_full_disk_leaves_the_old_file_or_the_new_one_and_nothing_else(
    nth: int, tmp_path: Path, full_disk: Failing
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with full_disk(nth) as disk, pytest.raises(StorageError):
        replace_file(path, b"new")
    assert disk.failed
    assert [found.name for found in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() in (b"old", b"new")


def test_there_are_no_more_calls_than_those_that_were_refused(tmp_path: Path, full_disk: Failing) -> None:
    with full_disk(1000) as disk:
        replace_file(tmp_path / "a", b"new")
    assert disk.calls == 5  # open, write, fsync, replace, fsync of the folder


def test_a_refusal_names_the_remedy_and_the_safe_state() -> None:
    error = storage_error(OSError(28, "No space left on device"), Path("/run/a"))
    assert error.message == "cannot write /run/a: No space left on device"
    assert "still valid" in str(error)


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_folder_that_another_run_makes_at_the_same_moment_is_taken_and_a_file_is_not(
    tmp_path, monkeypatch, is_folder
):
    def comes_second(path):
        path.mkdir() if is_folder else path.touch()
        raise FileExistsError(path)

    monkeypatch.setattr(durable, "make_folder", comes_second)
    with nullcontext() if is_folder else pytest.raises(FileExistsError):
        durable.make_folders(tmp_path / "runs")
    assert (tmp_path / "runs").is_dir() is is_folder
