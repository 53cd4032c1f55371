"""What callbacks ask for becomes one step at the boundary."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noether.core.providers.path import PathProvider
from noether.core.writers.checkpoint import CheckpointWriter, StepState
from noether.core.writers.manifest import Manifest
from noether.core.writers.state_tree import join_state
from noether.core.writers.step_folder import read_step
from noether.core.writers.tensor_file import decode_tensors
from noether.errors import StorageError, TrainingError


def state(update: int = 6, **parts: Any) -> StepState:
    model = {"encoder.weight": torch.full((2,), float(update)), "decoder.weight": torch.zeros(2)}
    everything: dict[str, Any] = {
        "epoch": 1,
        "update": update,
        "sample": 4 * update,
        "model": model,
        "optimizer_tensors": {"model/encoder.weight/exp_avg": torch.ones(2)},
        "optimizer_values": {"model": {"groups": [{"lr": 0.1, "betas": (0.9, 0.99)}], "state": {}}},
        "trainer": {"update": update},
        "callbacks": {"best": {"value": float("nan")}, "ema": {"weights": {"w": torch.ones(1)}}},
        "data": {},
        "rank": {"torch": "00ff"},
    }
    return StepState(**{**everything, **parts})


@pytest.fixture
def writer(tmp_path: Path) -> CheckpointWriter:
    return CheckpointWriter(PathProvider(tmp_path, "run"), keep_last=3, spec_sha256="abc")


def save(writer: CheckpointWriter, found: StepState, *requests: dict[str, Any]) -> Manifest:
    for request in requests or ({},):
        writer.save(**request)
    return read_step(writer.commit(found))[0]


def weights(writer: CheckpointWriter) -> dict[str, Tensor]:
    manifest, files = read_step(writer.steps[-1])
    return decode_tensors(files["model.safetensors"], manifest.aliases.get("model.safetensors", {}))


def test_asking_writes_nothing_until_the_boundary(writer: CheckpointWriter) -> None:
    writer.save("latest")
    assert writer.steps == []
    writer.commit(state())
    assert [step.name for step in writer.steps] == ["step-000000000006"]
    assert writer.pending is None


def test_a_step_holds_the_whole_state(writer: CheckpointWriter) -> None:
    manifest = save(writer, state(data={"transforms/0/mean": torch.ones(1)}))
    assert set(manifest.files) == {
        "model.safetensors",
        "optimizer.safetensors",
        "data.safetensors",
        "callbacks/ema.safetensors",
        "trainer.json",
        "rank-00000.json",
    }
    assert (manifest.epoch, manifest.update, manifest.sample) == (1, 6, 24)
    assert manifest.spec_sha256 == "abc"
    assert manifest.resumable


def test_values_and_callbacks_are_in_one_json_file(writer: CheckpointWriter) -> None:
    save(writer, state())
    tree = json.loads(read_step(writer.steps[0])[1]["trainer.json"])
    assert tree["trainer"] == {"update": 6}
    assert tree["optimizer"]["model"]["groups"] == [{"lr": 0.1, "betas": {"$tuple": [0.9, 0.99]}}]
    assert tree["callbacks"]["best"] == {"value": {"$float": "nan"}}


def test_a_callback_s_state_comes_back_from_its_tree_and_its_file(writer: CheckpointWriter) -> None:
    save(writer, state(callbacks={"ema": {"factor": 0.9, "paths": ((1, "x"),), "averages": {3: torch.ones(2)}}}))
    _, files = read_step(writer.steps[0])
    tree = json.loads(files["trainer.json"])["callbacks"]["ema"]
    found = join_state(tree, decode_tensors(files["callbacks/ema.safetensors"], {}))
    assert torch.equal(found["averages"].pop(3), torch.ones(2))
    assert found == {"factor": 0.9, "paths": ((1, "x"),), "averages": {}}


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    steps = []
    for name in ("one", "two"):
        writer = CheckpointWriter(PathProvider(tmp_path / name, name))
        save(writer, state(), {"tag": "last"})
        steps.append(read_step(writer.steps[0]))
    assert steps[0] == steps[1]


def test_requests_of_one_boundary_are_one_step_that_has_all_they_asked_for(writer: CheckpointWriter) -> None:
    manifest = save(
        writer,
        state(),
        {"tag": "best_model.loss", "save_optim": False, "model_names": ["encoder"]},
        {"tag": "latest", "save_weights": False},
        {"tag": "latest"},
    )
    assert manifest.tags == ["best_model.loss", "latest"]
    assert manifest.resumable
    assert set(weights(writer)) == {"encoder.weight", "decoder.weight"}


@pytest.mark.parametrize(
    "request_",
    [{"save_weights": False}, {"save_optim": False}, {"model_names": ["encoder"]}],
    ids=["no weights", "no optimizer", "one part"],
)
def test_a_partial_save_is_marked_as_not_resumable(request_: dict[str, Any], writer: CheckpointWriter) -> None:
    assert not save(writer, state(), request_).resumable


def test_parts_that_are_asked_for_together_are_saved_together(writer: CheckpointWriter) -> None:
    save(writer, state(), {"model_names": ["encoder"]})
    assert set(weights(writer)) == {"encoder.weight"}
    save(writer, state(7), {"model_names": ["encoder"]}, {"model_names": ["decoder"]})
    assert set(weights(writer)) == {"encoder.weight", "decoder.weight"}


def test_tied_weights_are_in_the_file_once(writer: CheckpointWriter) -> None:
    tied = torch.ones(2)
    manifest = save(writer, state(model={"a": tied, "b": tied}))
    assert manifest.aliases == {"model.safetensors": {"b": "a"}}
    assert set(weights(writer)) == {"a", "b"}


def test_only_the_newest_steps_are_kept(writer: CheckpointWriter) -> None:
    for update in (2, 4, 6, 8):
        save(writer, state(update))
    assert [read_step(step)[0].update for step in writer.steps] == [4, 6, 8]


def test_a_step_names_the_one_before_it(writer: CheckpointWriter) -> None:
    parents = [save(writer, state(update)).parent for update in (2, 4, 4, 6)]
    assert parents == [None, "step-000000000002", "step-000000000002", "step-000000000004"]


def test_saving_an_update_again_loses_nothing_of_its_first_save(writer: CheckpointWriter) -> None:
    save(writer, state(), {"tag": "best_model.loss"})
    manifest = save(writer, state(), {"tag": "last", "save_optim": False})
    assert manifest.tags == ["best_model.loss", "last"]
    assert manifest.resumable
    assert save(writer, state(8), {"tag": "last"}).tags == ["last"]


def test_a_full_disk_is_a_storage_error_and_older_steps_stay(
    writer: CheckpointWriter, full_disk: Callable[[int], AbstractContextManager[Any]]
) -> None:
    save(writer, state(2))
    with full_disk(3), pytest.raises(StorageError, match="step-000000000004"):
        save(writer, state(4))
    assert [read_step(step)[0].update for step in writer.steps] == [2]


def test_a_state_that_no_file_can_hold_names_its_callback(writer: CheckpointWriter) -> None:
    with pytest.raises(TrainingError, match="callback 'mine' holds a set"):
        save(writer, state(callbacks={"mine": {"seen": {1, 2}}}))
    assert writer.steps == []


def test_sweeping_removes_what_an_interrupted_save_left(writer: CheckpointWriter) -> None:
    leftover = writer.path_provider.checkpoint_path / ".tmp-step-000000000006-1-ab"
    leftover.mkdir(parents=True)
    writer.sweep()
    assert not leftover.exists()
