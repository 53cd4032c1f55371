"""`noether.load_run`: spec, metrics and model of an existing run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import noether
from noether.errors import CheckpointError, UsageError


def test_a_run_is_loaded_by_its_id_with_spec_metrics_and_model(finish: Callable[..., Any]) -> None:
    outcome = finish({"seed": 7}, run_id="mine")
    generators = torch.get_rng_state()
    run = noether.load_run("mine")
    assert (run.run_dir, run.spec.seed) == (outcome.run_dir, 7)
    assert run.final_metrics == outcome.metrics
    saved = load_file(max((outcome.run_dir / "checkpoints").iterdir()) / "model.safetensors")
    state = run.model.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert not any(module.training for module in run.model.modules())
    assert run.model(x=torch.zeros(2, 3))["y"].shape == (2, 2)
    assert torch.equal(torch.get_rng_state(), generators)


def test_metrics_are_a_table_with_a_row_for_each_line(
    finish: Callable[..., Any], metric_lines: Callable[[Any], list[dict[str, Any]]]
) -> None:
    outcome = finish({"trainer.callbacks": [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}]})
    table, lines = noether.load_run(outcome.run_dir).metrics, metric_lines(outcome)
    assert list(table.columns[:3]) == ["update", "epoch", "sample"]
    assert table["update"].tolist() == [line["update"] for line in lines]
    for row, line in zip(table.to_dict("records"), lines, strict=True):
        assert {key: row[key] for key in line["metrics"]} == line["metrics"]
        assert all(row[key] != row[key] for key in row if key not in {**line, **line["metrics"]})


def test_a_loaded_run_prints_its_folder_and_not_its_whole_spec(finish: Callable[..., Any]) -> None:
    run_dir = finish(run_id="mine").run_dir
    assert repr(noether.load_run("mine")) == f"SavedRun({str(run_dir)!r}, device='cpu')"


def test_the_model_needs_no_data(finish: Callable[..., Any]) -> None:
    run_dir = finish().run_dir
    for path in Path().glob("*.npz"):
        path.unlink()
    assert noether.load_run(run_dir).model.state_dict()


def test_any_checkpoint_can_be_named(finish: Callable[..., Any]) -> None:
    run_dir = finish({"trainer.callbacks": [{"kind": "checkpoint", "every_n_epochs": 1}]}).run_dir
    run = noether.load_run(run_dir)
    first = run.model_at("E1_U6_S48").state_dict()
    assert any(not torch.equal(first[name], tensor) for name, tensor in run.model.state_dict().items())
    with pytest.raises(CheckpointError):
        run.model_at("E9_U54_S432")


def test_a_run_with_lazy_modules_trains_and_comes_back(finish: Callable[..., Any]) -> None:
    optimizer = {"kind": "AdamW", "lr": 0.01}
    lazy = {"kind": "torch.nn.LazyLinear", "out_features": 2, "optimizer": optimizer}
    run = noether.load_run(finish({"model": lazy}).run_dir)
    assert run.model.state_dict()["weight"].shape == (2, 3)


def test_a_run_that_does_not_exist_is_an_error_of_usage(workplace: Path) -> None:
    with pytest.raises(UsageError):
        noether.load_run("nope")
