"""Changes of a spec that allow a resume."""

from __future__ import annotations

import importlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from noether.errors import UsageError
from noether.runs.resume import facts
from noether.runs.resume.changes import (
    FREE,
    inexact_changes,
    is_free,
    mathematics,
    refused_changes,
    require_same_mathematics,
)
from noether.runs.resume.facts import _sources
from noether.spec.model import RunSpec
from noether.training.trainers.weighted_loss import WeightedLossTrainerConfig

OBSERVE_STORE_OR_END = {
    "trainer": {
        "max_epochs", "max_updates", "max_samples", "add_default_callbacks", "add_trainer_callbacks", "callbacks",
        "initializer", "log_every_n_epochs", "log_every_n_updates", "log_every_n_samples", "track_every_n_epochs",
        "track_every_n_updates", "track_every_n_samples", "skip_nan_loss", "skip_nan_loss_max_count", "save_on_sigint",
        "dataloader_prefetch_factor", "monitor_training_stability", "monitor_interval", "track_outputs", "stop_signals",
        "hook_timeout_s", "max_results", "max_results_mb", "parallel", "shard", "reduce",
    },
    "": {
        "name", "output", "loader", "trackers", "plugins", "checkpoints", "expect", "initializer", "datasets", "device",
        "threads", "deterministic", "matmul_precision",
    },
}  # fmt: skip
"""Every field of a spec that may change when a run is continued; all others may not, new ones included."""
PART_OF_NO_RUN = {"spec", "extends", "resolved"}


FIELDS = {"": RunSpec.model_fields, "trainer": WeightedLossTrainerConfig.model_fields}


@pytest.mark.parametrize(("table", "fields"), FIELDS.items())
def test_every_field_of_a_spec_is_classified(table: str, fields: dict[str, Any]) -> None:  # D1
    names = set(fields) - PART_OF_NO_RUN
    keys = {name: f"{table}.{name}".removeprefix(".") for name in names}
    free = {name for name, key in keys.items() if is_free(key) or is_free(f"{key}.test.split")}
    assert free == OBSERVE_STORE_OR_END[table] & names


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("datasets.train.path", False),
        ("datasets.test.path", True),
        ("trainer.callbacks[ema].every_n_epochs", True),
        ("trainer.effective_batch_size", False),
        ("model.optimizer.lr", False),
        ("model.checkpoint", True),
        ("model.encoder.checkpoint", True),
        ("model.checkpoint_path", False),
        ("loader.num_workers", True),
        ("seed", False),
        ("trainer.loss_fn.kind", False),
    ],
)
def test_what_training_computes_may_not_change_and_what_observes_it_may(key: str, free: bool) -> None:
    assert is_free(key) is free


def test_no_pattern_is_there_for_nothing() -> None:
    fields = {*RunSpec.model_fields, *(f"trainer.{name}" for name in WeightedLossTrainerConfig.model_fields)}
    samples = fields | {"datasets.test"} | {f"trainer.{name}" for name in OBSERVE_STORE_OR_END["trainer"]}
    assert [pattern for pattern in FREE if not any(fnmatchcase(key, pattern) for key in samples)] == []


BEFORE: dict[str, Any] = {
    "model": {"hidden": [8], "optimizer": {"kind": "AdamW", "lr": 0.01}},
    "trainer": {"max_epochs": 2, "effective_batch_size": 8},
    "threads": 1,
}


def changed(**tables: dict[str, Any]) -> dict[str, Any]:
    return {**BEFORE, **{name: {**BEFORE[name], **table} for name, table in tables.items()}}


def test_a_refused_change_is_reported_with_both_values_and_the_way_out() -> None:
    now = changed(trainer={"effective_batch_size": 16})
    with pytest.raises(UsageError) as caught:
        require_same_mathematics(BEFORE, now)
    assert "trainer.effective_batch_size: 8 → 16" in str(caught.value)
    assert "--allow-spec-change" in str(caught.value.hint)


def test_all_refused_changes_are_reported_at_once() -> None:
    now = {**changed(trainer={"effective_batch_size": 16}), "seed": 1}
    assert [change.key for change in refused_changes(BEFORE, now)] == ["trainer.effective_batch_size", "seed"]


def test_a_run_of_a_version_without_a_key_goes_on_as_it_was_and_not_otherwise() -> None:
    assert refused_changes(BEFORE, changed(trainer={"update": "eager"})) == []
    assert mathematics(BEFORE) == mathematics(changed(trainer={"update": "eager"}))
    assert refused_changes(BEFORE, changed(trainer={"update": "compiled"}))
    assert mathematics(BEFORE) != mathematics(changed(trainer={"update": "compiled"}))


def test_recomputed_modules_may_change_unless_each_of_them_is_compiled_and_draws_other_numbers() -> None:
    assert refused_changes(BEFORE, changed(model={"checkpoint": ["blocks.*"]})) == []
    assert refused_changes(BEFORE, changed(model={"checkpoint": "weights.pt"}))  # an option of the model's own
    tables: dict[str, Any] = {"model": {}, "trainer": {"use_torch_compile": True}}
    more = {**tables, "model": {"checkpoint": ["blocks.*"]}}
    assert [change.key for change in refused_changes(tables, more)] == ["model.checkpoint"]
    assert refused_changes(tables, {**tables, "model": {"checkpoint": []}}) == []
    assert mathematics(tables) == mathematics({**tables, "model": {"checkpoint": []}}) != mathematics(more)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_run_may_be_made_longer_where_no_schedule_stretches_over_it(scheduled: bool) -> None:  # E7
    optimizer = {"kind": "AdamW", "lr": 0.01} | ({"schedule": {"kind": "cosine"}} if scheduled else {})
    before = changed(model={"optimizer": optimizer})
    now = {**before, "trainer": {**before["trainer"], "max_epochs": 4}}
    assert [change.key for change in refused_changes(before, now)] == (["trainer.max_epochs"] if scheduled else [])


def test_changes_of_the_last_bits_are_reported_and_not_refused() -> None:  # D6
    now = {**BEFORE, "threads": 2}
    require_same_mathematics(BEFORE, now)
    assert inexact_changes(BEFORE, now) == ["threads: 1 → 2"]


def test_modules_that_lie_side_by_side_in_a_project_are_all_part_of_its_code(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "side_layers.py").write_text("import json\nimport torch\nclass Block: ...\nSIZE = 3\n")
    (tmp_path / "side_model.py").write_text("from side_layers import Block\nclass Net: ...\n")
    net = importlib.import_module("side_model").Net
    assert _sources(net).keys() == {"side_model", "side_layers"}


@pytest.mark.parametrize("chunk", ["train/x.npy", "train.zarr/x/c/0"])
def test_a_folder_of_data_is_compared_by_the_files_in_it(tmp_path: Path, chunk: str) -> None:
    """And another folder is not: the runs of a project may lie in it."""
    file = tmp_path / chunk
    file.parent.mkdir(parents=True)
    file.write_bytes(b"before")
    tables = {"train": {"path": str(tmp_path / Path(chunk).parts[0])}, "other": {"root": str(tmp_path)}}
    ((place, folder),) = facts._files(tables, "datasets")
    assert place == "datasets.train.path"
    before = facts._sample_of(folder)
    assert facts._sample_of(folder) == before
    file.write_bytes(b"after!")
    assert facts._sample_of(folder) != before


def test_each_file_of_a_list_of_data_is_compared(tmp_path: Path) -> None:
    files = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for file in files:
        file.write_bytes(b"a shard")
    tables = {"train": {"shards": [*map(str, files), "https://example.org/c.tar"]}}
    assert list(facts._files(tables, "datasets")) == [
        (f"datasets.train.shards[{number}]", file) for number, file in enumerate(files)
    ]
