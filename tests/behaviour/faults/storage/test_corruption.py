"""Every damage of a committed checkpoint is detected; sound checkpoints are never reported as damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint import manifest as manifests
from noether.checkpoint.manifest import Manifest, NewerFormatError
from noether.checkpoint.paths import checkpoint_name, read_checkpoint
from noether.checkpoint.saved import CheckpointNames
from noether.errors import CheckpointError

Damage = Callable[[Path, Path, random.Random], None]


def truncate(file: Path, other: Path, rng: random.Random) -> None:
    os.truncate(file, rng.randrange(file.stat().st_size))


def flip_a_bit(file: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def zero_a_page(file: Path, other: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    page = 4096 * rng.randrange((len(data) + 4095) // 4096)
    data[page : page + 4096] = bytes(len(data[page : page + 4096]))
    file.write_bytes(data)


def delete(file: Path, other: Path, rng: random.Random) -> None:
    file.unlink()


def empty(file: Path, other: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def swap(file: Path, other: Path, rng: random.Random) -> None:  # C2
    file.write_bytes(other.read_bytes())


def append(file: Path, other: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 9)))


def edit(file: Path, other: Path, rng: random.Random) -> None:  # C3
    """Change one digit, as an editor does; a number is in every file, for tensors in the header."""
    data = bytearray(file.read_bytes())
    place = rng.choice([place for place, byte in enumerate(data) if chr(byte).isdigit()])
    data[place] = ord("7") if data[place] != ord("7") else ord("8")
    file.write_bytes(data)


def link(file: Path, other: Path, rng: random.Random) -> None:
    """Put a link in its place that leads to the very same bytes."""
    moved = file.rename(file.parents[len(file.parents) - len(other.parents)] / f"moved-{file.name}")
    file.symlink_to(moved)


def pipe(file: Path, other: Path, rng: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path, other: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


DAMAGES = (truncate, flip_a_bit, zero_a_page, delete, empty, swap, append, edit, link, pipe, folder)
RANDOM = (truncate, flip_a_bit, zero_a_page, append, edit)
FILES = (
    "manifest.json",
    "model.safetensors",
    "optimizer.safetensors",
    "data.safetensors",
    "trainer.json",
    "trainer.safetensors",
    "rank-00000.json",
    "callbacks/ema.safetensors",
    "callbacks/ema/0.9.safetensors",
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def run(template: Path, tmp_path: Path, saves: Any, disk_class: Any, using: Any) -> Any:
    """A run with the saves 2, 4 and 6."""
    if not list(template.iterdir()):
        with using(disk_class()):
            first = saves(template)
            for update in (2, 4, 6):
                first.save(update)
    shutil.copytree(template, tmp_path / "copy")
    return saves(tmp_path / "copy")


def step(run: Any, update: int) -> Path:
    found: Path = run.checkpoints / checkpoint_name(update)
    return found


def test_the_files_are_all_that_a_checkpoint_has(run: Any) -> None:
    newest = step(run, 6)
    assert {path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file()} == set(FILES)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_any_damage_to_any_file_is_noticed_and_the_next_older_one_is_taken(  # C1, C2, C3
    damage: Damage, run: Any, saved_number: Any, caplog: pytest.LogCaptureFixture
) -> None:
    damaged_everywhere(damage, run, saved_number, caplog, times=1)


@pytest.mark.chaos
@pytest.mark.parametrize("damage", RANDOM, ids=lambda damage: damage.__name__)
def test_any_damage_at_twenty_places_of_any_file_is_noticed(
    damage: Damage, run: Any, saved_number: Any, caplog: pytest.LogCaptureFixture, figures: Any
) -> None:
    figures("damages", detected=damaged_everywhere(damage, run, saved_number, caplog, times=20))


def damaged_everywhere(damage: Damage, run: Any, saved_number: Any, caplog: Any, *, times: int) -> int:
    names, newest = CheckpointNames(run.checkpoints), step(run, 6)
    sound = shutil.copytree(newest, run.checkpoints.parent / "sound")
    tried = 0
    for seed in range(times):
        for file in FILES:
            tried += 1
            damage(newest / file, step(run, 4) / file, random.Random(f"{file} {seed}"))
            caplog.clear()
            with pytest.raises(CheckpointError) as caught:
                read_checkpoint(newest)
            assert newest.name in str(caught.value)
            assert names.load("latest", saved_number) == 4, file
            assert newest.name in caplog.text
            for name in (newest.name, "E1_U6_S48"):  # an explicit name is no "or an older one"
                with pytest.raises(CheckpointError):
                    names.load(name, saved_number)
            shutil.rmtree(newest)
            shutil.copytree(sound, newest)
    assert run.recover() == 6
    return tried


def test_sound_checkpoints_are_never_called_damaged(run: Any, saved_number: Any, caplog: Any) -> None:
    for update in (2, 4, 6):
        assert CheckpointNames(run.checkpoints).load(checkpoint_name(update), saved_number) == update
    assert CheckpointNames(run.checkpoints).load("latest", saved_number) == 6
    assert caplog.text == ""


@pytest.mark.parametrize("file", FILES)
def test_where_all_checkpoints_are_damaged_nothing_begins_from_zero(  # C5
    file: str, run: Any, saved_number: Any
) -> None:
    for update in (2, 4, 6):
        flip_a_bit(step(run, update) / file, Path(), random.Random(update))
    with pytest.raises(CheckpointError) as error:
        CheckpointNames(run.checkpoints).load("latest", saved_number)
    assert all(checkpoint_name(update) in error.value.message for update in (2, 4, 6))


def test_a_link_in_the_place_of_a_folder_is_not_followed(run: Any, saved_number: Any) -> None:
    moved = (step(run, 6) / "callbacks").rename(run.checkpoints.parent / "callbacks")
    (step(run, 6) / "callbacks").symlink_to(moved)
    assert CheckpointNames(run.checkpoints).load("latest", saved_number) == 4


@pytest.mark.parametrize("replace", [lambda path: path.write_bytes(b""), os.mkfifo, os.mkdir])
def test_something_else_in_the_place_of_a_step_is_damage(replace: Any, run: Any, saved_number: Any) -> None:
    shutil.rmtree(step(run, 6))
    replace(step(run, 6))
    assert CheckpointNames(run.checkpoints).load("latest", saved_number) == 4


def test_a_checkpoint_of_a_newer_format_is_refused_with_the_version_that_it_needs(  # C4
    run: Any, saved_number: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = step(run, 6) / "manifest.json"
    body = json.loads(file.read_bytes()) | {"format": 3, "written_by": "3.1.4", "unheard_of": [1]}
    del body["sha256"]
    body["sha256"] = manifests._digest(body)
    file.write_text(json.dumps(body))
    for name in ("latest", checkpoint_name(6)):  # taking an older one would throw sound work away
        with pytest.raises(NewerFormatError) as error:
            CheckpointNames(run.checkpoints).load(name, saved_number)
        assert "3" in str(error.value)
        assert "noether-train" in str(error.value)
        assert "3.1.4" in str(error.value)
        assert error.value.hint == "install noether-train>=3.1.4"
    assert CheckpointNames(run.checkpoints).load(checkpoint_name(4), saved_number) == 4


def test_a_run_that_was_moved_or_copied_is_as_good_as_before(run: Any, tmp_path: Path, saves: Any) -> None:  # C6
    for path in run.checkpoints.rglob("*"):
        assert not path.is_file() or str(tmp_path).encode() not in path.read_bytes()
    shutil.move(tmp_path / "copy", tmp_path / "elsewhere")
    moved = saves(tmp_path / "elsewhere")
    assert moved.recover() == 6
    moved.save(8)
    assert moved.recover() == 8


def test_a_manifest_says_who_wrote_it(run: Any) -> None:
    assert Manifest.decode((step(run, 6) / "manifest.json").read_bytes()).written_by
