"""Runs whose updates are graphs end bit for bit as eager ones do; a CPU stands in for the device."""

from __future__ import annotations

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from torch import nn

from noether.core.models.base import ModelBase
from noether.runs.resume.verify_resume import verify_resume
from noether.testing import RecordingDevice, make_data, make_model, make_trainer
from noether.training.forms import choose
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.types import Counted, TrainerResult
from noether.training.trainers.weighted_loss import WeightedLossTrainer

ADAMW = {"kind": "AdamW", "lr": 0.013}
ONLINE_LOSS = {"kind": "online-loss", "every_n_updates": 2}
OFFLINE_LOSS = {"kind": "offline-loss", "every_n_updates": 3, "dataset_key": "test"}
EMA = {"kind": "ema", "every_n_updates": 4, "target_factors": [0.9], "eval_callbacks": [OFFLINE_LOSS]}
STOPPER = {"kind": "metric-early-stopper", "every_n_updates": 3, "metric_key": "loss/test/total", "patience": 1}


class Normed(ModelBase):
    """A model with batch norm and dropout."""

    def __init__(self, optimizer: dict[str, Any]) -> None:
        super().__init__(make_model(optimizer=optimizer).model_config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.net(x)}


def trained(folder: Path, update: str, *, model: str = "mlp", bad: tuple[int, ...] = (), **table: Any) -> Any:
    optimizer = table.pop("optimizer", ADAMW)
    data = table.pop("data", None) or make_data()
    data.train.properties["x"][list(bad)] = float("nan")
    made = Normed(optimizer) if model == "normed" else make_model(optimizer=optimizer, dropout=table.pop("dropout", 0))
    torch.manual_seed(7)
    trainer = make_trainer(folder / update, data=data, update=update, **{"max_updates": 14, **table})
    with closing(trainer.log_writer):
        trainer.train(made)
    return trainer, made


def without_times(line: dict[str, Any]) -> list[Any]:
    return [line["update"], {k: v for k, v in line["metrics"].items() if not k.startswith(("profiling/", "eta"))}]


def left(folder: Path, trainer: Any, model: ModelBase) -> dict[str, Any]:
    """Return all that a run leaves behind."""
    lines = (folder / trainer.config.update / "test-run" / "metrics.jsonl").read_text().splitlines()
    scaler = trainer.precision.scaler
    return {
        "weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "optimizer": {
            f"{part}/{name}": tensor.tolist()
            for part, optimizer in model.optimizers().items()
            for name, tensor in optimizer.state_tensors().items()
        },
        "metrics": [without_times(json.loads(line)) for line in lines],
        "counts": (trainer.update_counter.update, trainer.skip_nan_loss_counter, trainer.finite_guard.skipped_updates),
        "scaler": scaler and scaler.state_dict(),
        "loss": repr(trainer.last_loss.item()),
        "generator": torch.get_rng_state().tolist(),
    }


RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "schedule and clipping": {"optimizer": {**ADAMW, "schedule": "cosine", "clip_grad_norm": 0.2}},
    "values clipped, SGD": {"optimizer": {"kind": "SGD", "lr": 0.1, "momentum": 0.9, "clip_grad_value": 0.1}},
    "dropout and batch norm": {"model": "normed", "optimizer": {**ADAMW, "clip_grad_norm": 0.5}},
    "accumulation": {"model": "normed", "max_batch_size": 2},
    "bf16": {"precision": "bf16", "dropout": 0.2},
    "fp16 with a scaler": {"precision": "fp16", "optimizer": {**ADAMW, "clip_grad_norm": 0.5}, "max_batch_size": 2},
    "updates that are skipped": {"model": "normed", "bad": (1, 9, 22), "skip_nan_loss": True, "max_batch_size": 2},
    "averages, evaluation, early stop": {"dropout": 0.2, "callbacks": [OFFLINE_LOSS, EMA, STOPPER], "max_updates": 40},
    "default callbacks": {"add_default_callbacks": True, "track_every_n_updates": 1},
    "two updates": {"max_updates": 2},
}


@pytest.mark.parametrize("settings", RUNS.values(), ids=list(RUNS))
def test_a_run_by_graphs_ends_as_an_eager_one(
    tmp_path: Path, graphs_on_cpu: RecordingDevice, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    settings = {"callbacks": [ONLINE_LOSS], **settings}
    eager = left(tmp_path, *trained(tmp_path, "eager", **settings))
    assert graphs_on_cpu.calls == []
    with caplog.at_level(logging.WARNING, "noether.trainers"):
        trainer, model = trained(tmp_path, "graph", **settings)
    assert left(tmp_path, trainer, model) == eager
    assert trainer.one_update.reason is None, caplog.text
    replays = graphs_on_cpu.calls.count("replay") - 2  # those of the rehearsal
    assert replays == max(trainer.update_counter.update - 3, 0)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "gradients are read": ({"monitor_training_stability": True, "add_default_callbacks": True}, "reads gradients"),
    "no fused kernel": ({"optimizer": {**ADAMW, "fused": False}}, "AdamW has no fused kernel that takes a mask"),
    "a closure": ({"optimizer": {"kind": "LBFGS"}, "max_updates": 2}, "the optimizer evaluates the loss itself"),
    "another schedule": (
        {"optimizer": {**ADAMW, "weight_decay": 0.1, "weight_decay_schedule": "cosine"}},
        "a schedule sets weight_decay of AdamW",
    ),
}


@pytest.mark.parametrize(("settings", "reason"), REFUSALS.values(), ids=list(REFUSALS))
def test_a_run_that_cannot_be_a_graph_says_so_before_training(
    tmp_path: Path,
    graphs_on_cpu: RecordingDevice,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    reason: str,
) -> None:
    trainer, model = trained(tmp_path, "graph", **settings)
    assert (trainer.one_update.form, graphs_on_cpu.calls) == ("eager", [])
    (line,) = [record.getMessage() for record in caplog.records if "not graph" in record.getMessage()]
    assert reason in line
    assert reason in choose("graph", trainer, model).reasons["graph"]


def test_a_machine_without_cuda_trains_eagerly_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, _ = trained(tmp_path, "graph")
    assert trainer.one_update.form == "eager"
    assert "updates are eager, not graph: the device is cpu, and only CUDA devices have graphs" in caplog.text


def test_auto_does_not_choose_graphs_before_they_have_run_on_a_device(
    tmp_path: Path, graphs_on_cpu: RecordingDevice
) -> None:
    trainer, _ = trained(tmp_path, "auto")
    assert (trainer.one_update.form, graphs_on_cpu.calls) == ("eager", [])


def test_a_run_by_graphs_is_resumed_exactly(tiny_spec: dict[str, Any], graphs_on_cpu: RecordingDevice) -> None:
    optimizer = {**ADAMW, "schedule": "cosine", "clip_grad_norm": 0.5}
    spec = {**tiny_spec, "model": {"kind": "mlp", "hidden": [8], "dropout": 0.2, "optimizer": optimizer}}
    spec["trainer"] = {**spec["trainer"], "update": "graph", "max_batch_size": 4, "callbacks": [EMA]}
    Path("resumed.toml").write_text(tomli_w.dumps(spec))
    assert verify_resume("resumed.toml", at=[2, 5, 8]).is_equal
    assert graphs_on_cpu.calls.count("replay") > 12


def test_a_resume_may_change_between_graphs_and_eager_updates(finish: Any, graphs_on_cpu: RecordingDevice) -> None:
    def weights(outcome: Any) -> bytes:
        return (max((outcome.run_dir / "checkpoints").glob("step-*")) / "model.safetensors").read_bytes()

    settings = {"trainer.max_epochs": 2, "trainer.update": "eager"}
    whole = weights(finish(settings, run_id="whole"))
    stops = {"kind": "fixed-early-stopper", "stop_at_update": 6}
    finish({**settings, "trainer.update": "graph", "trainer.callbacks": [stops]}, run_id="parts")
    assert weights(finish(settings, run_id="parts", resume="auto", allow_spec_change=True)) == whole


@pytest.mark.parametrize("hook", ["periodic_callback", "track_after_update_step", "track_after_accumulation_step"])
def test_a_callback_that_changes_the_model_in_any_hook_ends_the_graphs(
    finish: Any, lab: Path, graphs_on_cpu: RecordingDevice, final_weights: Any, hook: str
) -> None:
    changes = {"kind": "lab.changing.ChangesDropout", "every_n_updates": 1, "hook": hook, "at_update": 6}
    settings = {"model.dropout": 0.2, "trainer.callbacks": [changes]}
    eager = finish({**settings, "trainer.update": "eager"}, run_id="eager")
    graph = finish({**settings, "trainer.update": "graph"}, run_id="graph")
    assert final_weights(eager) == final_weights(graph)
    assert graphs_on_cpu.calls.count("replay") in (4, 5, 6)  # two of them in the rehearsal
    lines = (graph.run_dir / "log.txt").read_text().splitlines()
    (line,) = [line for line in lines if "updates are eager, not graph" in line]
    assert line.endswith("attribute 'p' of module 'layers.2' changed since the graph was captured")


def counted(self: WeightedLossTrainer, forward_output: dict[str, Any], targets: dict[str, Any]) -> Any:
    error = (forward_output["y"] - targets["y_target"]).square()
    return {"y": Counted(error.mean(), float(error.numel())), "small": Counted(error[:1].sum(), "sum")}


def test_losses_with_counts_are_weighted_inside_of_the_graph(
    tmp_path: Path, graphs_on_cpu: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightedLossTrainer, "loss_compute", counted)
    settings = {"callbacks": [ONLINE_LOSS], "max_batch_size": 2}
    eager = left(tmp_path, *trained(tmp_path, "eager", **settings))
    trainer, model = trained(tmp_path, "graph", **settings)
    assert left(tmp_path, trainer, model) == eager
    assert trainer.one_update.reason is None


def weighted_by_epoch(self: WeightedLossTrainer, batch: Any, model: Any) -> TrainerResult:
    result = BaseTrainer.train_step(self, batch, model)
    return TrainerResult(result.total_loss * (1.0 if self.update_counter.epoch < 2 else 0.1))


def test_a_train_step_that_reads_the_epoch_is_not_captured(
    tmp_path: Path, graphs_on_cpu: RecordingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WeightedLossTrainer, "train_step", weighted_by_epoch)
    eager = left(tmp_path, *trained(tmp_path, "eager", callbacks=[ONLINE_LOSS]))
    trainer, model = trained(tmp_path, "graph", callbacks=[ONLINE_LOSS])
    assert left(tmp_path, trainer, model) == eager
    assert "reads 'epoch' of the run's counter" in trainer.one_update.reason
