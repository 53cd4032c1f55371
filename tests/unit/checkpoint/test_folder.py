"""A checkpoint exists completely or not at all, at any failure in between."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noether.checkpoint.commit import commit_checkpoint
from noether.checkpoint.manifest import FileRecord, Manifest
from noether.checkpoint.paths import checkpoint_folders, checkpoint_name, read_checkpoint, sweep_leftovers
from noether.checkpoint.retention import Retention, prune_checkpoints
from noether.errors import CheckpointError, StorageError

Failing = Callable[[int], AbstractContextManager[Any]]


def files_of(text: str) -> dict[str, bytes]:
    return {"model.safetensors": text.encode(), "callbacks/ema.safetensors": b"", "trainer.json": b"{}"}


def commit(folder: Path, update: int, text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return commit_checkpoint(folder, files_of(text or f"weights {update}"), Manifest(0, update, 4 * update, {}))


def weights(step: Path) -> str:
    """Return the content of a checkpoint, all of it verified."""
    manifest, files = read_checkpoint(step)
    assert step.name == checkpoint_name(manifest.update)
    return files["model.safetensors"].decode()


def content(folder: Path) -> dict[str, str]:
    return {step.name.lstrip("step-0"): weights(step) for step in checkpoint_folders(folder)}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the updates 10 and 20, to be copied: a copy does not wait for the disk as a save does."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for update in (10, 20):
        commit(folder, update)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_a_step_reads_back_with_its_manifest(tmp_path: Path) -> None:
    step = commit(tmp_path / "a" / "b", 7)
    manifest, files = read_checkpoint(step)
    assert (step.name, manifest.update) == ("step-000000000007", 7)
    assert files == files_of("weights 7")


def test_steps_are_listed_oldest_first(folder: Path) -> None:
    commit(folder, 5)
    commit(folder, 10**11)
    assert [read_checkpoint(step)[0].update for step in checkpoint_folders(folder)] == [5, 10, 20, 10**11]


def test_without_a_folder_there_are_no_steps(tmp_path: Path) -> None:
    assert checkpoint_folders(tmp_path / "none") == []
    sweep_leftovers(tmp_path / "none")


def test_saving_an_update_again_replaces_it(folder: Path) -> None:
    commit(folder, 20, "again")
    assert content(folder) == {"10": "weights 10", "20": "again"}
    assert hidden(folder) == []


# What dies in between


CALLS_OF_A_SAVE = 15  # four files opened, written and synced, folders made and synced, one rename


@pytest.mark.parametrize("how", ["full_disk", "hiccup", "killed"])
@pytest.mark.parametrize("update", [20, 30], ids=["same update", "new update"])
def test_wherever_a_save_fails_older_steps_stay_and_nothing_half_done_is_left(
    update: int, how: str, saved: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    failing: Failing = request.getfixturevalue(how)
    for nth in itertools.count(1):
        folder = shutil.copytree(saved, tmp_path / str(nth))
        before = content(folder)
        with failing(nth) as disk, contextlib.suppress(StorageError):
            commit(folder, update, "new")
        if how == "hiccup":
            assert not any(name.startswith(".tmp-") for name in hidden(folder))
            assert before.keys() <= content(folder).keys()
        sweep_leftovers(folder)
        assert content(folder) in (before, before | {str(update): "new"})
        assert hidden(folder) == []
        if not disk.failed:
            break
    assert nth > CALLS_OF_A_SAVE
    assert content(folder)[str(update)] == "new"


def test_a_killed_removal_leaves_only_whole_steps(saved: Path, tmp_path: Path, killed: Failing) -> None:
    for nth in itertools.count(1):
        folder = shutil.copytree(saved, tmp_path / str(nth))
        with killed(nth) as disk:
            prune_checkpoints(folder, Retention(1))
        found = content(folder)
        assert found["20"] == "weights 20"
        assert found.items() <= content(saved).items()
        sweep_leftovers(folder)
        assert hidden(folder) == []
        if not disk.failed:
            break
    assert content(folder) == {"20": "weights 20"}


@pytest.mark.parametrize("how", ["full_disk", "killed"])
def test_a_first_save_that_fails_leaves_no_step(how: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    failing: Failing = request.getfixturevalue(how)
    (tmp_path / "checkpoints").mkdir()
    for nth in range(1, 12):
        try:
            with failing(nth):
                commit(tmp_path / "checkpoints", 10)
        except StorageError:
            pass
        sweep_leftovers(tmp_path / "checkpoints")
        assert checkpoint_folders(tmp_path / "checkpoints") == []


# Damage


@pytest.fixture(scope="module")
def saved_step(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(saved / checkpoint_name(10), tmp_path_factory.mktemp("damaged") / checkpoint_name(10))


@given(data=st.data())
def test_any_flipped_bit_and_any_cut_of_any_file_is_noticed(saved_step: Path, data: st.DataObject) -> None:
    victims = sorted(path for path in saved_step.rglob("*") if path.is_file() and path.stat().st_size)
    victim = data.draw(st.sampled_from(victims), label="file")
    sound = victim.read_bytes()
    place = data.draw(st.integers(0, len(sound) - 1), label="place")
    damaged = bytearray(sound)
    if data.draw(st.booleans(), label="cut"):
        del damaged[place:]
    else:
        damaged[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    try:
        victim.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(saved_step)
        assert str(saved_step) in str(caught.value)
    finally:
        victim.write_bytes(sound)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "callbacks/ema.safetensors"])
def test_a_missing_file_is_noticed(name: str, folder: Path) -> None:
    step = checkpoint_folders(folder)[0]
    (step / name).unlink()
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(step)
    assert Path(name).name in str(caught.value)


def test_a_file_that_grew_is_noticed(folder: Path) -> None:
    step = checkpoint_folders(folder)[0]
    with (step / "callbacks/ema.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(step)
    assert "ema.safetensors" in str(caught.value)


@pytest.mark.parametrize("name", ["../{other}", "{folder}/{other}", "a/../../{other}", "..", ".", ""])
def test_a_manifest_that_points_outside_of_its_folder_is_refused(name: str, folder: Path) -> None:
    step, other = checkpoint_folders(folder)
    manifest, _ = read_checkpoint(step)
    name = name.format(folder=folder, other=f"{other.name}/model.safetensors")  # it exists and has the stated hash
    hostile = dataclasses.replace(manifest, files={name: FileRecord.of(b"weights 20")})
    (step / "manifest.json").write_bytes(hostile.encode())
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(step)
    assert str(step) in str(caught.value)


# Retention


@given(st.sets(st.integers(0, 99), max_size=6), st.integers(0, 8))
def test_pruning_keeps_the_newest(tmp_path_factory: pytest.TempPathFactory, updates: set[int], keep_last: int) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    for update in updates:
        (folder / checkpoint_name(update)).mkdir()
    prune_checkpoints(folder, Retention(keep_last))
    kept = sorted(updates)[-max(keep_last, 1) :]
    assert [path.name for path in sorted(folder.iterdir())] == [checkpoint_name(update) for update in kept]


def test_a_disk_that_refuses_to_prune_is_reported_and_nothing_else_happens(
    folder: Path, full_disk: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk(1):
        prune_checkpoints(folder, Retention(1))
    assert re.search("cannot remove the old checkpoint .*step-000000000010", caplog.text)
    assert content(folder) == {"10": "weights 10", "20": "weights 20"}


def test_sweeping_leaves_steps_and_foreign_files_alone(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / ".tmp-step-000000000030-1-abcd").mkdir()
    (folder / ".trash-step-000000000000-abcd").mkdir()
    sweep_leftovers(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", checkpoint_name(10), checkpoint_name(20)]
