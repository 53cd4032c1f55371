"""The requests of callbacks become one checkpoint at the boundary."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noether.checkpoint.manifest import Manifest, NamedCheckpoint
from noether.checkpoint.paths import PathProvider, read_checkpoint
from noether.checkpoint.state import CheckpointState
from noether.checkpoint.state_tree import join_state
from noether.checkpoint.tensor_file import decode_tensors
from noether.checkpoint.writer import CheckpointWriter
from noether.errors import StorageError, TrainingError


def state(update: int = 6, **parts: Any) -> CheckpointState:
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
        "ranks": [{"torch": "00ff"}],
    }
    return CheckpointState(**{**everything, **parts})


@pytest.fixture
def writer(tmp_path: Path) -> CheckpointWriter:
    return CheckpointWriter(PathProvider(tmp_path, "run"), keep_last=3, spec_sha256="abc")


def save(writer: CheckpointWriter, found: CheckpointState, *requests: dict[str, Any]) -> Manifest:
    for request in requests or ({},):
        writer.save(**request)
    return read_checkpoint(writer.commit(found))[0]


def weights(writer: CheckpointWriter) -> dict[str, Tensor]:
    manifest, files = read_checkpoint(writer.checkpoints[-1])
    return decode_tensors(files["model.safetensors"], manifest.aliases.get("model.safetensors", {}))


def test_asking_writes_nothing_until_the_boundary(writer: CheckpointWriter) -> None:
    writer.save()
    assert writer.checkpoints == []
    writer.commit(state())
    assert [step.name for step in writer.checkpoints] == ["step-000000000006"]
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
    tree = json.loads(read_checkpoint(writer.checkpoints[0])[1]["trainer.json"])
    assert tree["trainer"] == {"update": 6}
    assert tree["optimizer"]["model"]["groups"] == [{"lr": 0.1, "betas": {"$tuple": [0.9, 0.99]}}]
    assert tree["callbacks"]["best"] == {"value": {"$float": "nan"}}


def test_a_callback_s_state_comes_back_from_its_tree_and_its_file(writer: CheckpointWriter) -> None:
    save(writer, state(callbacks={"ema": {"factor": 0.9, "paths": ((1, "x"),), "averages": {3: torch.ones(2)}}}))
    _, files = read_checkpoint(writer.checkpoints[0])
    tree = json.loads(files["trainer.json"])["callbacks"]["ema"]
    found = join_state(tree, decode_tensors(files["callbacks/ema.safetensors"], {}))
    assert torch.equal(found["averages"].pop(3), torch.ones(2))
    assert found == {"factor": 0.9, "paths": ((1, "x"),), "averages": {}}


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    steps = []
    for name in ("one", "two"):
        writer = CheckpointWriter(PathProvider(tmp_path / name, name))
        save(writer, state(), {"tag": "last"})
        steps.append(read_checkpoint(writer.checkpoints[0]))
    assert steps[0] == steps[1]


def test_requests_of_one_boundary_are_one_step_that_has_all_they_asked_for(writer: CheckpointWriter) -> None:
    manifest = save(
        writer,
        state(),
        {"tag": "best_model.loss", "save_optim": False, "model_names": ["encoder"]},
        {"tag": "last", "save_weights": False},
        {"tag": "last"},
    )
    assert manifest.names == {"best_model.loss": NamedCheckpoint(6), "last": NamedCheckpoint(6)}
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
    assert [read_checkpoint(step)[0].update for step in writer.checkpoints] == [4, 6, 8]


def test_a_step_names_the_one_before_it(writer: CheckpointWriter) -> None:
    parents = [save(writer, state(update)).parent for update in (2, 4, 4, 6)]
    assert parents == [None, "step-000000000002", "step-000000000002", "step-000000000004"]


def test_saving_an_update_again_loses_nothing_of_its_first_save(writer: CheckpointWriter) -> None:
    save(writer, state(), {"tag": "best_model.loss"})
    manifest = save(writer, state(), {"tag": "last", "save_optim": False})
    assert manifest.names == {"best_model.loss": NamedCheckpoint(6), "last": NamedCheckpoint(6)}
    assert manifest.resumable


def test_a_full_disk_is_a_storage_error_and_older_steps_stay(
    writer: CheckpointWriter, full_disk: Callable[[int], AbstractContextManager[Any]]
) -> None:
    save(writer, state(2))
    with full_disk(3), pytest.raises(StorageError) as caught:
        save(writer, state(4))
    assert "step-000000000004" in str(caught.value)
    assert [read_checkpoint(step)[0].update for step in writer.checkpoints] == [2]


def test_a_state_that_no_file_can_hold_names_its_callback(writer: CheckpointWriter) -> None:
    with pytest.raises(TrainingError) as caught:
        save(writer, state(callbacks={"mine": {"seen": {1, 2}}}))
    assert "'mine'" in str(caught.value)
    assert writer.checkpoints == []


def test_sweeping_removes_what_an_interrupted_save_left(writer: CheckpointWriter) -> None:
    leftover = writer.path_provider.checkpoint_path / ".tmp-step-000000000006-1-ab"
    leftover.mkdir(parents=True)
    writer.prepare()
    assert not leftover.exists()


# Names


def test_a_name_moves_to_the_newest_step_that_asked_for_it_and_later_steps_know_it(writer: CheckpointWriter) -> None:
    save(writer, state(2), {"tag": "best_model.loss"})
    assert save(writer, state(4)).names == {"best_model.loss": NamedCheckpoint(2)}
    assert save(writer, state(6), {"tag": "best_model.loss"}).names == {"best_model.loss": NamedCheckpoint(6)}


def test_a_further_name_stays_when_the_first_one_moves_on(writer: CheckpointWriter) -> None:
    save(writer, state(2), {"tag": "best_model.loss"})
    writer.name("best_model.loss.tolerance=5", of="best_model.loss")
    names = save(writer, state(4), {"tag": "best_model.loss"}).names
    assert names == {"best_model.loss": NamedCheckpoint(4), "best_model.loss.tolerance=5": NamedCheckpoint(2)}


def test_a_name_that_is_only_asked_for_so_far_can_be_named_further(writer: CheckpointWriter) -> None:
    writer.save("best_model.loss")
    writer.name("best_model.loss.tolerance=5", of="best_model.loss")
    assert set(save(writer, state(2)).names) == {"best_model.loss", "best_model.loss.tolerance=5"}


def test_naming_a_checkpoint_of_another_run_is_refused(
    writer: CheckpointWriter, caplog: pytest.LogCaptureFixture
) -> None:
    writer.name("best_model.loss.tolerance=5", of="best_model.loss")
    assert "no checkpoint of this run is named best_model.loss" in caplog.text
    assert save(writer, state(2)).names == {}


def test_named_steps_stay_and_partial_saves_push_out_none_that_a_run_can_go_on_from(writer: CheckpointWriter) -> None:
    writer.keep_last = 2
    save(writer, state(1), {"tag": "best_model.loss", "save_optim": False})
    for update in (2, 3, 4):
        save(writer, state(update))
    for update in (5, 6, 7):
        save(writer, state(update), {"save_optim": False})
    assert [read_checkpoint(step)[0].update for step in writer.checkpoints] == [1, 3, 4, 6, 7]


# Frozen parameters and files of callbacks


def test_frozen_weights_are_left_out_where_asked_for_and_such_a_save_is_not_resumable(writer: CheckpointWriter) -> None:
    manifest = save(writer, state(frozen={"decoder.weight"}), {"save_frozen_weights": False})
    assert set(weights(writer)) == {"encoder.weight"}
    assert not manifest.resumable


class Ema:
    """Owns files, as far as a checkpoint writer is concerned."""

    id = "ema"


FILES = {"ema": {"0.9": {"encoder.weight": torch.ones(2)}}}


def test_a_whole_save_holds_the_files_of_all_callbacks_and_a_partial_one_those_asked_for(
    writer: CheckpointWriter,
) -> None:
    assert "callbacks/ema/0.9.safetensors" in save(writer, state(2, callback_files=FILES)).files
    partial = save(writer, state(4, callback_files=FILES), {"save_optim": False})
    assert "callbacks/ema/0.9.safetensors" not in partial.files
    writer.save_files("ema")
    asked = read_checkpoint(writer.commit(state(6, callback_files=FILES)))[0]
    assert "callbacks/ema/0.9.safetensors" in asked.files
    assert "model.safetensors" not in asked.files
    assert not asked.resumable


def test_a_view_saves_the_weights_that_it_stands_for_under_a_name(writer: CheckpointWriter) -> None:
    view = writer.standing_for(Ema(), "0.9")
    view.save("best_model.ema=0.9.loss")
    manifest = read_checkpoint(writer.commit(state(callback_files=FILES)))[0]
    assert manifest.names == {"best_model.ema=0.9.loss": NamedCheckpoint(6, "callbacks/ema/0.9.safetensors")}
    assert "callbacks/ema/0.9.safetensors" in manifest.files


def test_a_view_saves_nothing_without_a_name_of_its_own(writer: CheckpointWriter) -> None:
    view = writer.standing_for(Ema(), "0.9")
    with pytest.raises(TrainingError) as caught:
        view.save()
    assert "'ema'" in str(caught.value)


def test_a_checkpoint_is_refused_while_the_model_holds_other_weights(writer: CheckpointWriter) -> None:
    with writer.refusing("the weights are averages of 'ema'"):
        with pytest.raises(TrainingError) as caught:
            writer.save()
        assert "'ema'" in str(caught.value)
        writer.standing_for(Ema(), "0.9").save("best_model.ema=0.9.loss")
    writer.save()
    assert writer.pending is not None and writer.pending.is_whole


def test_a_view_follows_its_writer(writer: CheckpointWriter) -> None:
    view = writer.standing_for(Ema(), "0.9")
    writer.keep_last, writer.keep_every, writer.asynchronous = 7, 5, True
    assert (view.retention.keep_last, view.retention.keep_every, view.asynchronous) == (7, 5, True)
    writer.save("last")
    writer.commit(state())
    writer.settle()
    assert view.last_committed == writer.last_committed is not None
