"""Runs that check for non-finite updates on the device end like those that check on the host.

The CPU takes the place of an accelerator: its fused optimizers take the same flag.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from noether.checkpoint.paths import checkpoint_folders
from noether.core.models.composite import CompositeModel
from noether.errors import NonFiniteError
from noether.metrics.device import READING_METHODS, is_read
from noether.testing import make_data, make_model, make_trainer
from noether.training.nonfinite import DeviceGuard

UPDATES = 12
OPTIMIZERS = [
    {"kind": "AdamW", "lr": 0.1},
    {"kind": "SGD", "lr": 0.1, "momentum": 0.9, "dampening": 0.5, "clip_grad_norm": 0.5},
    {"kind": "SGD", "lr": 0.1, "clip_grad_value": 0.1, "schedule": "cosine"},
]
ONLINE_LOSS = {"kind": "online-loss", "every_n_updates": 4}
DATA = make_data().train
OPTIMIZER_NAMES = ["adamw", "sgd with momentum", "sgd"]


class Parts(CompositeModel):
    """Adds two models."""

    def forward(self, x):
        return {"y": self.a(x=x)["y"] + self.b(x=x)["y"]}


def composite():
    kinds = zip("ab", OPTIMIZERS, strict=False)
    return Parts(parts={name: make_model(seed=ord(name), optimizer=table) for name, table in kinds})


def prepared(folder: Path, *, deferred: bool, bad: Sequence[int] = (), **table: Any):
    data = make_data()
    data.train.properties["x"][list(bad)] = float("nan")
    if not {"max_updates", "max_epochs"} & table.keys():
        table["max_updates"] = UPDATES
    trainer = make_trainer(folder, data=data, **table)
    if deferred:
        trainer.one_update.guard = DeviceGuard(
            skip=trainer.config.skip_nan_loss, max_in_a_row=trainer.config.skip_nan_loss_max_count
        )
    return trainer


def ended(folder: Path, model, *, deferred: bool, **table: Any) -> dict[str, Any]:
    """Train and return everything that the run leaves behind."""
    trainer = prepared(folder, deferred=deferred, **table)
    message = None
    try:
        trainer.train(model)
    except NonFiniteError as error:
        message = error.message.replace(str(folder), "")
    trainer.log_writer.close()
    metrics = folder / "test-run" / "metrics.jsonl"
    optimizers = model.optimizers().items()
    scaler = trainer.precision.scaler
    return {
        "message": message,
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "optimizers": {f"{part}/{key}": t for part, entry in optimizers for key, t in entry.state_tensors().items()},
        "counts": (trainer.skip_nan_loss_counter, trainer.finite_guard.skipped_updates),
        "scaler": scaler and scaler.state_dict(),
        "metrics": [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else [],
        "steps": [step.name for step in checkpoint_folders(trainer.path_provider.checkpoint_path)],
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for kind in ("weights", "optimizers"):
        for name, tensor in expected[kind].items():
            assert torch.equal(found[kind][name], tensor), name
    for kind in ("message", "counts", "scaler", "steps"):
        assert found[kind] == expected[kind]
    assert len(found["metrics"]) == len(expected["metrics"])
    for line, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert line["update"] == other["update"]
        assert line["metrics"] == pytest.approx(other["metrics"], rel=1e-12)


def both_ways(make=make_model, **table: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as deferred, tempfile.TemporaryDirectory() as looked:
        return (
            ended(Path(deferred), make(), deferred=True, **table),
            ended(Path(looked), make(), deferred=False, **table),
        )


@pytest.mark.parametrize("bad", [[], [3], [1, 2, 9, 20], range(24)], ids=len)
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=OPTIMIZER_NAMES)
def test_a_run_ends_the_same_wherever_its_bad_samples_are(optimizer, steps, bad):
    table = {"skip_nan_loss": True, "bad": bad, "max_batch_size": 4 // steps, "callbacks": [ONLINE_LOSS]}
    assert_same(*both_ways(lambda: make_model(optimizer=optimizer), **table))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=OPTIMIZER_NAMES)
@settings(max_examples=12)
@given(finite=st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=1, max_size=8))
def test_any_updates_that_are_not_finite_leave_the_same_weights_and_the_same_scale(
    tmp_path_factory, optimizer, precision, finite
):
    folder = tmp_path_factory.getbasetemp()
    ways = [by_hand(folder, finite, optimizer, precision, deferred=deferred) for deferred in (True, False)]
    (found, found_counts), (expected, expected_counts) = ways
    assert found_counts == expected_counts
    assert found.keys() >= expected.keys()  # torch makes the state of a masked first step, all zeros
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def by_hand(folder, finite, optimizer, precision, *, deferred):
    """Do updates of some accumulation steps each, finite or not; return weights, state and counts."""
    trainer = prepared(folder, deferred=deferred, skip_nan_loss=True, precision=precision)
    model = make_model(optimizer=optimizer)
    model.initialize_optimizer(total_updates=10, updates_per_epoch=5)
    rows = iter(range(24))
    for steps in finite:
        for step, is_finite in enumerate(steps):
            row = slice(start := next(rows), start + 1)
            batch = {name: tensor[row].clone() for name, tensor in DATA.properties.items()}
            batch["x"] += 0.0 if is_finite else float("nan")
            trainer.update(batch, model, model, len(steps), step)
    counts = trainer.skip_nan_loss_counter, trainer.finite_guard.skipped_updates
    scaler = trainer.precision.scaler
    return {**model.state_dict(), **model.optimizer.state_tensors()}, (*counts, scaler and scaler.get_scale())


@pytest.mark.parametrize("bad", [[], [3], range(24)], ids=len)
def test_half_precision_ends_the_same_as_well(bad):
    table = {"skip_nan_loss": True, "bad": bad, "precision": "fp16", "callbacks": [ONLINE_LOSS]}
    assert_same(*both_ways(lambda: make_model(optimizer=OPTIMIZERS[0]), **table))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_both_optimizers_of_a_composite_leave_the_same_updates_out(precision):
    found, expected = both_ways(composite, skip_nan_loss=True, bad=[3, 4, 17], precision=precision)
    assert expected["counts"][1] > 0
    assert_same(found, expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_part_that_is_not_finite_masks_the_others(tmp_path, precision):
    trainer, model = prepared(tmp_path, deferred=True, skip_nan_loss=True, precision=precision), composite()
    for parameter in model.a.parameters():
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer.train(model)
    assert trainer.finite_guard.skipped_updates == UPDATES
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    trainer.log_writer.close()


@pytest.mark.parametrize("table", [{}, {"skip_nan_loss": True, "skip_nan_loss_max_count": 3}])
def test_a_run_gives_up_for_the_same_update_and_with_the_same_checkpoint(table):
    saving = [{"kind": "checkpoint", "every_n_updates": 2}]
    bad = range(24) if table else [20]
    found, expected = both_ways(bad=bad, callbacks=saving, **table)
    assert "not finite in" in expected["message"]
    assert (found["message"], found["steps"]) == (expected["message"], expected["steps"])


def test_without_any_boundary_a_run_gives_up_at_its_end_and_calls_nothing_more(tmp_path):
    trainer, model = prepared(tmp_path, deferred=True, bad=[20]), make_model()
    trainer.prepare(model)
    called = []
    trainer.dispatch.after_training = called.append
    with pytest.raises(NonFiniteError):
        trainer.train(model)
    assert trainer.update_counter.update == UPDATES
    assert checkpoint_folders(trainer.path_provider.checkpoint_path) == called == []
    trainer.log_writer.close()


@pytest.mark.parametrize("what", ["a metric", "a checkpoint"])
def test_what_a_hook_wants_written_between_boundaries_is_a_boundary_too(tmp_path, what):
    trainer, model = prepared(tmp_path, deferred=True, bad=[20]), make_model()
    trainer.prepare(model)

    def ask(*_):
        if what == "a metric":
            trainer.log_writer.add_scalar("mine", 1.0)
        else:
            trainer.checkpoint_writer.save()

    trainer.dispatch.track_after_update_step = ask
    with pytest.raises(NonFiniteError) as caught:
        trainer.train(model)
    assert f"update {trainer.update_counter.update};" in caught.value.message
    trainer.log_writer.close()


def test_a_checkpoint_knows_how_many_updates_in_a_row_were_skipped(tmp_path):
    trainer = prepared(tmp_path, deferred=True, bad=range(24), skip_nan_loss=True, max_updates=5)
    trainer.train(make_model())
    (step,) = checkpoint_folders(trainer.path_provider.checkpoint_path)
    assert json.loads((step / "trainer.json").read_text())["trainer"]["skipped_in_a_row"] == 5
    trainer.log_writer.close()


def test_hooks_get_the_verdict_on_the_device(tmp_path):
    trainer, model = prepared(tmp_path, deferred=True, bad=[20], skip_nan_loss=True, max_updates=6), make_model()
    trainer.prepare(model)
    told = []
    trainer.dispatch.track_after_update_step = lambda *_: told.append(trainer.applied)
    trainer.train(model)
    assert sorted(tensor.item() for tensor in told) == [0.0, *[1.0] * 5]
    trainer.log_writer.close()


# How often the host waits


class DispatchedReads(TorchDispatchMode):
    """Counts numbers that any code, torch's own included, takes from a tensor."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += is_read(function, args)
        return function(*args, **(kwargs or {}))


class CalledReads(TorchFunctionMode):
    """Counts whole tensors that become lists or arrays, which the CPU does not dispatch."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function in READING_METHODS
        return function(*args, **(kwargs or {}))


def reads_of(folder: Path, model, **table: Any) -> tuple[int, int]:
    trainer = prepared(folder, skip_nan_loss=True, bad=[1, 2, 20], **table)
    trainer.prepare(model)
    with CalledReads() as called, DispatchedReads() as dispatched:
        trainer.train(model)
    trainer.log_writer.close()
    return dispatched.count, called.count


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS[::2], ids=OPTIMIZER_NAMES[::2])
def test_no_update_without_a_boundary_is_waited_for(tmp_path, optimizer, steps, precision):
    counts = []
    callbacks = [{"kind": "online-loss", "every_n_epochs": 100}]
    table = {"precision": precision, "max_batch_size": 4 // steps, "callbacks": callbacks, "deferred": True}
    for updates in (UPDATES, 2 * UPDATES):
        model = make_model(optimizer=optimizer)
        counts.append(reads_of(tmp_path / str(updates), model, max_updates=updates, **table))
    assert counts[0] == counts[1]


def test_a_host_that_looks_waits_at_every_update(tmp_path):
    short, long = (
        reads_of(tmp_path / str(updates), make_model(), deferred=False, max_updates=updates)[0]
        for updates in (UPDATES, 2 * UPDATES)
    )
    assert long - short == UPDATES
