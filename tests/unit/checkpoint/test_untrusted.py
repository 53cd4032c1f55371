"""Files below a folder: no links, regular files only, and no waiting."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from noether.checkpoint.commit import CheckpointFolder
from noether.checkpoint.durable import make_folders, replace_file
from noether.checkpoint.paths import checkpoint_folders, read_manifest
from noether.checkpoint.retention import Retention, pin, pinned, prune_checkpoints, unpin
from noether.checkpoint.untrusted import (
    NotPlainError,
    is_file_inside,
    is_folder,
    names_inside,
    open_inside,
    read_untrusted,
    require_folders,
)
from noether.errors import CheckpointError, StorageError

APPENDS = os.O_WRONLY | os.O_APPEND | os.O_CREAT


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a file, beside files that are nobody's to change."""
    for name in ("run", "run/sub", "precious", "precious/sub"):
        (tmp_path / name).mkdir()
    for name in ("run/sub/file", "precious/file", "precious/sub/file"):
        (tmp_path / name).write_text("content")
    return tmp_path / "run"


@pytest.fixture
def precious(run: Path) -> Path:
    return run.parent / "precious"


def linked_file(run: Path, precious: Path) -> None:
    (run / "sub/file").unlink()
    (run / "sub/file").symlink_to(precious / "file")


def linked_folder(run: Path, precious: Path) -> None:
    (run / "sub/file").unlink()
    (run / "sub").rmdir()
    (run / "sub").symlink_to(precious / "sub")


def pipe(run: Path, precious: Path) -> None:
    (run / "sub/file").unlink()
    os.mkfifo(run / "sub/file")


def folder(run: Path, precious: Path) -> None:
    (run / "sub/file").unlink()
    (run / "sub/file").mkdir()


@pytest.mark.parametrize("flags", [os.O_RDONLY, APPENDS, os.O_RDWR | os.O_CREAT], ids=["read", "append", "change"])
@pytest.mark.parametrize("spoil", [linked_file, linked_folder, pipe, folder])
def test_only_regular_files_without_links_are_opened(
    run: Path, precious: Path, spoil: Callable[[Path, Path], None], flags: int
) -> None:
    os.close(open_inside(run, "sub/file", flags))
    assert is_file_inside(run, "sub/file")
    spoil(run, precious)
    with pytest.raises(NotPlainError):
        open_inside(run, "sub/file", flags)
    assert not is_file_inside(run, "sub/file")


@pytest.mark.parametrize("name", ["../precious/file", "sub/../../precious/file", "/etc/passwd", "", ".", ".."])
def test_nothing_outside_of_the_folder_is_opened(run: Path, name: str) -> None:
    for path in (name, run / name) if name not in ("", ".") else (name,):
        with pytest.raises(NotPlainError):
            open_inside(run, path)


def test_a_file_with_another_name_is_read_and_never_changed(run: Path, precious: Path) -> None:
    os.link(precious / "file", run / "hard")
    assert read_untrusted(run, "hard") == b"content"
    with pytest.raises(NotPlainError):
        open_inside(run, "hard", APPENDS)


def test_the_folder_itself_may_be_a_link_and_its_parents_too(run: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").symlink_to(run)
    assert read_untrusted(tmp_path / "scratch", "sub/file") == b"content"
    assert read_untrusted(tmp_path / "scratch", tmp_path / "scratch/sub/file") == b"content"
    replace_file(tmp_path / "scratch/sub/file", b"new", inside=tmp_path / "scratch")
    assert names_inside(tmp_path / "scratch", "sub") == ["file"]
    assert (run / "sub/file").read_bytes() == b"new"


def test_a_missing_file_is_created_only_if_that_is_asked_for(run: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_inside(run, "new")
    os.close(open_inside(run, "new", APPENDS))
    assert names_inside(run, "none") == []
    require_folders(run, run / "none/of/these")


def test_folders_are_neither_listed_nor_made_nor_written_through_links(run: Path, precious: Path) -> None:
    linked_folder(run, precious)
    assert not is_folder(run / "sub")
    with pytest.raises(NotPlainError):
        names_inside(run, "sub")
    with pytest.raises(NotPlainError):
        make_folders(run / "sub/deeper", inside=run)
    with pytest.raises(StorageError):
        replace_file(run / "sub/file", b"?", inside=run)
    assert sorted(path.name for path in precious.rglob("*")) == ["file", "file", "sub"]
    assert (precious / "sub/file").read_text() == "content"


def test_a_link_in_place_of_a_file_is_replaced_itself(run: Path, precious: Path) -> None:
    linked_file(run, precious)
    replace_file(run / "sub/file", b"new", inside=run)
    assert (precious / "file").read_text() == "content"
    assert read_untrusted(run, "sub/file") == b"new"


@pytest.mark.parametrize("act", [checkpoint_folders, lambda path: prune_checkpoints(path, Retention(1)), pinned])
def test_a_linked_folder_of_checkpoints_is_never_listed_or_pruned(
    run: Path, precious: Path, act: Callable[[Path], object]
) -> None:
    for update in (1, 2, 3):
        (precious / f"step-{update:012d}").mkdir()
    (precious / "pins").symlink_to(precious / "sub")
    (run / "checkpoints").symlink_to(precious)
    with pytest.raises(CheckpointError):
        act(run / "checkpoints")
    with pytest.raises(StorageError):
        CheckpointFolder(run / "checkpoints").prepare()
    assert len(list(precious.glob("step-*"))) == 3


def test_pins_are_not_made_and_not_removed_through_links(run: Path, precious: Path) -> None:
    step = "step-000000000001"
    (run / "checkpoints" / step).mkdir(parents=True)
    (precious / step).touch()
    (run / "checkpoints/pins").symlink_to(precious)
    for act in (pin, unpin):
        with pytest.raises(StorageError):
            act(run / "checkpoints", 1)
    assert (precious / step).exists()


def test_a_checkpoint_that_is_a_link_is_damaged(run: Path, precious: Path) -> None:
    (precious / "manifest.json").write_text("{}")
    (run / "checkpoints").mkdir()
    (run / "checkpoints/step-000000000001").symlink_to(precious)
    with pytest.raises(CheckpointError, match="symbolic link"):
        read_manifest(run / "checkpoints/step-000000000001")
