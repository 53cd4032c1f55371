"""`noether checkpoint verify`: every damage is reported with its file; sound checkpoints pass."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from noether.checkpoint.manifest import FileRecord, Manifest

EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5]}
CHECKPOINT = {"kind": "checkpoint", "every_n_epochs": 1}


@pytest.fixture
def trained(finish):
    """A run of two epochs with a checkpoint of each."""
    return finish({"trainer.callbacks": [EMA, CHECKPOINT]}, run_id="trained")


@pytest.fixture
def newest(trained):
    """The folder of its newest checkpoint."""
    return trained.run_dir / "checkpoints/step-000000000012"


@pytest.fixture
def verify(noether_command):
    return lambda *arguments: noether_command("checkpoint", "verify", "trained", *arguments)


def hashed_anew(step):
    """Write a manifest that vouches for the files as they are now."""
    path = step / "manifest.json"
    manifest = Manifest.decode(path.read_bytes())
    for name in manifest.files:
        manifest.files[name] = FileRecord.of((step / name).read_bytes())
    path.write_bytes(manifest.encode())


@pytest.mark.parametrize("options", [[], ["--deep"], ["--all"], ["--all", "--deep"], ["E1_U6_S48"], ["last", "--deep"]])
def test_a_sound_checkpoint_is_valid(trained, verify, options):
    ended = verify(*options)
    assert (ended.code, ended.err) == (0, "")
    names = [line.partition(":")[0] for line in ended.out.splitlines()]
    assert names == (["E1_U6_S48", "E2_U12_S96"] if "--all" in options else [names[0]])
    assert all(": valid (" in line for line in ended.out.splitlines())


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def removed(path):
    path.unlink()


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


DAMAGES = {
    flipped: "its bytes are not those that were saved: the sha256 differs",
    truncated: "bytes instead of",
    removed: "it is missing",
    linked: "",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)  # C1
def test_every_damaged_file_is_named_with_the_reason(newest, verify, damage):
    manifest = Manifest.decode((newest / "manifest.json").read_bytes())
    for name in manifest.files:
        damage(newest / name)
    ended = verify()
    assert ended.code == 3
    told = dict(line.strip().split(": ", 1) for line in ended.out.splitlines()[1:])
    assert told.keys() == manifest.files.keys()
    assert all(DAMAGES[damage] in reason for reason in told.values())


@pytest.mark.parametrize("damage", [flipped, truncated, removed], ids=lambda damage: damage.__name__)
def test_a_damaged_manifest_is_named(newest, verify, damage):
    damage(newest / "manifest.json")
    ended = verify()
    assert ended.code == 3
    assert ended.out.splitlines()[0] == "step-000000000012: damaged (step-000000000012)"
    assert ended.out.splitlines()[1].startswith("  manifest.json: ")


def test_only_what_was_asked_for_is_verified(newest, verify):
    flipped(newest / "model.safetensors")
    assert verify("E1_U6_S48").code == 0
    assert verify("last").code == 3
    ended = verify("--all")
    assert ended.code == 3
    assert [line.split(" (")[0] for line in ended.out.splitlines() if line[0] == "E"] == [
        "E1_U6_S48: valid",
        "E2_U12_S96: damaged",
    ]


def test_json_names_the_files_and_reasons(newest, verify):
    flipped(newest / "callbacks/ema/0.5.safetensors")
    ended = verify("--json")
    assert ended.code == 3
    (verdict,) = json.loads(ended.out)
    assert (verdict["name"], verdict["valid"]) == ("E2_U12_S96", False)
    assert [damage["file"] for damage in verdict["damages"]] == ["callbacks/ema/0.5.safetensors"]


def test_a_run_without_checkpoints_has_no_valid_one(trained, verify):
    for step in (trained.run_dir / "checkpoints").iterdir():
        step.rename(trained.run_dir / step.name)
    ended = verify()
    assert ended.code == 3
    assert "trained has no checkpoints" in ended.err


def test_numbers_that_are_not_finite_are_found_by_looking_deeply(newest, verify):
    path = newest / "model.safetensors"
    tensors = load_file(path)
    tensors["layers.0.bias"][3] = torch.nan
    save_file(tensors, path)
    hashed_anew(newest)
    assert verify().code == 0
    ended = verify("--deep")
    assert ended.code == 3
    assert "  model.safetensors: layers.0.bias is not finite" in ended.out


def test_a_file_that_is_written_differently_is_found_by_looking_deeply(newest, verify):
    path = newest / "optimizer.safetensors"
    save_file(load_file(path), path, metadata={"written": "on another day"})
    hashed_anew(newest)
    ended = verify("--deep")
    assert ended.code == 3
    assert "  optimizer.safetensors: written anew, its tensors give other bytes" in ended.out


def test_bytes_that_are_no_tensors_are_found_by_looking_deeply(newest, verify):
    (newest / "optimizer.safetensors").write_bytes(b"\xff" * 100)
    hashed_anew(newest)
    ended = verify("--deep")
    assert ended.code == 3
    assert "  optimizer.safetensors: " in ended.out


def test_a_name_and_all_do_not_go_together(trained, verify):
    ended = verify("last", "--all")
    assert (ended.code, "leave one of them out" in ended.err) == (2, True)
