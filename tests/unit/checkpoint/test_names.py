"""Names of checkpoints: given, derived, damaged and misspelt ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import Checkpoint, CheckpointNames
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.writer import CheckpointWriter
from noether.errors import CheckpointError

BEST = "best_model.loss.test.total"


@pytest.fixture
def writer(tmp_path: Path) -> CheckpointWriter:
    return CheckpointWriter(PathProvider(tmp_path, "run"), keep_last=9)


@pytest.fixture
def names(writer: CheckpointWriter) -> CheckpointNames:
    return CheckpointNames(writer.path_provider.checkpoint_path)


def save(writer: CheckpointWriter, update: int, *tags: str, more: tuple[str, ...] = (), **request: Any) -> None:
    """Save a checkpoint whose weights, and those in `more`, are its update, with an average of the first."""
    for tag in tags or (None,):
        writer.save(tag, **request)
    parts = ("optimizer_tensors", "optimizer_values", "trainer", "callbacks", "data")
    nothing: dict[str, Any] = {part: {} for part in parts}
    weights = {name: torch.tensor([float(update)]) for name in ("w", *more)}
    averages = {"ema": {"0.9": {"w": torch.tensor([float(-update)])}}}
    writer.commit(
        CheckpointState(update // 4, update, 8 * update, model=weights, ranks=[{}], callback_files=averages, **nothing)
    )


def weight(found: Checkpoint) -> float:
    return float(found.tensors()["w"])


def damage(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "update"),
    [
        ("latest", 6),
        ("last", 6),
        (BEST, 4),
        ("best_model.loss/test/total", 4),
        ("best_model.loss/test/total.tolerance=5", 2),
        ("E0_U2_S16", 2),
        ("E1_U6_S48", 6),
        ("step-000000000004", 4),
    ],
)
def test_every_kind_of_name_leads_to_its_step(
    name: str, update: int, writer: CheckpointWriter, names: CheckpointNames
) -> None:
    save(writer, 2, BEST, f"{BEST}.tolerance=5")
    save(writer, 4, BEST)
    save(writer, 6, "last")
    assert weight(names.find(name)) == update


def test_a_name_of_averaged_weights_leads_to_their_file(writer: CheckpointWriter, names: CheckpointNames) -> None:
    writer.save_files("ema", "best_model.ema=0.9.loss", weights="callbacks/ema/0.9.safetensors")
    save(writer, 2)
    assert weight(names.find("best_model.ema=0.9/loss")) == -2


def test_averages_of_a_part_are_completed_with_live_weights(writer: CheckpointWriter, names: CheckpointNames) -> None:
    writer.save_files("ema", "averaged", weights="callbacks/ema/0.9.safetensors")
    save(writer, 2, more=("v",))
    tensors = names.find("averaged").tensors()
    assert {name: float(tensor) for name, tensor in tensors.items()} == {"w": -2.0, "v": 2.0}


def test_a_step_without_weights_says_what_it_holds(writer: CheckpointWriter, names: CheckpointNames) -> None:
    save(writer, 2, save_weights=False)
    with pytest.raises(CheckpointError) as caught:
        names.find("E0_U2_S16").tensors()
    assert "trainer.json" in str(caught.value)


def test_latest_is_the_newest_step_that_a_run_can_go_on_from(writer: CheckpointWriter, names: CheckpointNames) -> None:
    save(writer, 2)
    save(writer, 4, save_optim=False)
    assert weight(names.find("latest")) == 2
    assert weight(names.find("E1_U4_S32")) == 4


@pytest.mark.parametrize("victim", ["manifest.json", "model.safetensors"])
def test_latest_skips_a_damaged_step_and_names_it(
    victim: str, writer: CheckpointWriter, names: CheckpointNames, caplog: pytest.LogCaptureFixture
) -> None:
    save(writer, 2)
    save(writer, 4)
    damage(writer.checkpoints[-1], victim)
    with caplog.at_level(logging.WARNING, logger="noether"):
        assert names.load("latest", weight) == 2
    assert "step-000000000004 is damaged" in caplog.text


def test_what_is_not_read_is_not_checked(writer: CheckpointWriter, names: CheckpointNames) -> None:
    save(writer, 2)
    damage(writer.checkpoints[-1], "trainer.json")
    assert names.load("latest", weight) == 2


def test_no_sound_step_at_all_is_an_error_that_names_the_damages(
    writer: CheckpointWriter, names: CheckpointNames
) -> None:
    save(writer, 2)
    damage(writer.checkpoints[0], "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        names.load("latest", weight)
    assert "000000000002" in str(caught.value)


@pytest.mark.parametrize("name", ["last", "E1_U4_S32", "step-000000000004"])
def test_a_step_that_was_asked_for_by_name_is_not_replaced_by_another(
    name: str, writer: CheckpointWriter, names: CheckpointNames
) -> None:
    save(writer, 2)
    save(writer, 4, "last")
    damage(writer.checkpoints[-1], "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        names.load(name, weight)
    assert "step-000000000004" in str(caught.value)


def test_a_damaged_manifest_is_reported_for_its_folder(writer: CheckpointWriter, names: CheckpointNames) -> None:
    save(writer, 4)
    damage(writer.checkpoints[-1], "manifest.json")
    with pytest.raises(CheckpointError) as caught:
        names.find("step-000000000004")
    assert "step-000000000004" in str(caught.value)


def test_an_unknown_name_is_reported_with_the_existing_ones(writer: CheckpointWriter, names: CheckpointNames) -> None:
    save(writer, 4, BEST, "last")
    with pytest.raises(CheckpointError) as error:
        names.find("best_modl.loss/test/total")
    assert "'best_model.loss.test.total'" in str(error.value)
    assert error.value.hint == f"it has latest, {BEST}, last, E1_U4_S32"


def test_a_named_step_that_is_gone_is_reported(writer: CheckpointWriter, names: CheckpointNames) -> None:
    save(writer, 2, BEST)
    save(writer, 4)
    writer.checkpoints[0].rename(writer.checkpoints[0].with_name("elsewhere"))
    with pytest.raises(CheckpointError) as caught:
        names.find(BEST)
    assert BEST in str(caught.value)
    assert "step-000000000002" in str(caught.value)


@pytest.mark.parametrize("name", ["latest", "last", "../elsewhere", ""])
def test_a_run_without_checkpoints_has_no_names(name: str, names: CheckpointNames) -> None:
    with pytest.raises(CheckpointError):
        names.find(name)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("E1", "'E1_U4_S32' or 'E1_U6_S48'?"),
        ("e1_u6", "'E1_U6_S48'?"),
        ("best_model", f"'{BEST}'?"),
        ("best_model.loss/test", f"'{BEST}'?"),
        ("step-00000000004", None),
    ],
)
def test_a_prefix_of_a_name_is_completed(
    asked: str, meant: str | None, writer: CheckpointWriter, names: CheckpointNames
) -> None:
    save(writer, 2)
    save(writer, 4, BEST)
    save(writer, 6)
    with pytest.raises(CheckpointError) as error:
        names.find(asked)
    told = f"holds no checkpoint {asked!r}." + (f" Did you mean {meant}" if meant else "")
    assert error.value.message.endswith(told)


def test_many_names_are_listed_one_a_line(writer: CheckpointWriter, names: CheckpointNames) -> None:
    for update in (2, 4, 6):
        save(writer, update)
    save(writer, 8, "last")
    with pytest.raises(CheckpointError) as error:
        names.find("unknown")
    assert error.value.hint is not None
    assert [line.strip() for line in error.value.hint.splitlines()] == [
        "it has",
        "latest",
        "last",
        "E0_U2_S16",
        "E1_U4_S32",
        "E1_U6_S48",
        "E2_U8_S64",
    ]
