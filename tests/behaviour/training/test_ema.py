"""Averaged weights: computed, evaluated, saved and resumed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from noether.checkpoint.paths import ResumptionPaths, checkpoint_folders
from noether.checkpoint.saved import CheckpointNames
from noether.core.models.composite import CompositeModel
from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.errors import SpecError, TrainingError
from noether.kernel.registry import Registry, use_registry
from noether.testing import make_callback, make_counter, make_data, make_model, make_trainer

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_updates": 3, "dataset_key": "test"}


def ema(*children: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "kind": "ema",
        "every_n_epochs": 1,
        "target_factors": [0.9],
        "eval_callbacks": [dict(child) for child in children] or None,
        **settings,
    }


@pytest.fixture
def metrics_of() -> Callable[[Path], dict[int, dict[str, float]]]:
    """Reads the metrics of a `make_trainer` run by update."""

    def read(folder: Path) -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = defaultdict(dict)
        for line in (folder / "test-run" / "metrics.jsonl").read_text().splitlines():
            found[json.loads(line)["update"]] |= json.loads(line)["metrics"]
        return found

    return read


def trained(folder: Path, *callbacks: dict[str, Any], model: Any = None, **settings: Any) -> tuple[Any, Any]:
    trainer, model = make_trainer(folder, callbacks=list(callbacks), **settings), model or make_model()
    train(trainer, model)
    return trainer, model


def train(trainer: Any, model: Any) -> None:
    with closing(trainer.log_writer):
        trainer.train(model)


def averages_by_hand(factor: float, updates: int, folder: Path) -> list[dict[str, Tensor]]:
    """Return the averages after each update, from the weights of runs that end there."""
    weights = [trained(folder / str(end), max_updates=end)[1].state_dict() for end in range(1, updates + 1)]
    averages = [{name: tensor.double() for name, tensor in make_model().state_dict().items()}]
    for state in weights:
        last = averages[-1]
        averages.append({name: factor * last[name] + (1 - factor) * state[name].double() for name in state})
    return averages


def saved_averages(folder: Path, factor: float = 0.9, step: int = -1) -> dict[str, Tensor]:
    path = checkpoint_folders(folder / "test-run" / "checkpoints")[step] / "callbacks" / "ema" / f"{factor}.safetensors"
    found: dict[str, Tensor] = load_file(path)
    return found


def test_the_saved_averages_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    trained(tmp_path, ema(target_factors=[0.5, 0.9]), max_updates=7)
    for factor in (0.5, 0.9):
        expected = averages_by_hand(factor, 7, tmp_path / str(factor))[-1]
        found = saved_averages(tmp_path, factor)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name].double(), tensor, rtol=1e-5, atol=1e-6)


def test_children_evaluate_the_averaged_weights_under_keys_of_their_own(tmp_path: Path, metrics_of: Any) -> None:
    trained(tmp_path, OFFLINE_LOSS, ema(OFFLINE_LOSS), max_updates=6)
    for update in (3, 6):
        model = make_model()
        model.load_state_dict(
            {n: t.float() for n, t in averages_by_hand(0.9, update, tmp_path / str(update))[-1].items()}
        )
        data = make_data().get_dataset("test").__getitems__(list(range(10)))
        with torch.no_grad():
            expected = torch.nn.functional.mse_loss(model(x=data["x"])["y"], data["y_target"])
        logged = metrics_of(tmp_path)[update]
        assert logged["ema=0.9/loss/test/total"] == pytest.approx(float(expected), rel=1e-5)
        assert logged["ema=0.9/loss/test/total"] != logged["loss/test/total"]


def test_an_update_that_was_skipped_leaves_the_averages_alone(tmp_path: Path) -> None:
    broken = {"x": torch.full((24, 3), float("nan")), "y_target": torch.zeros(24, 2)}
    data = DataContainer({"train": InMemoryDataset(broken)})
    trainer, _ = trained(tmp_path, ema(), data=data, skip_nan_loss=True, max_updates=3)
    assert trainer.finite_guard.skipped_updates == 3
    for name, tensor in saved_averages(tmp_path).items():
        assert torch.equal(tensor, make_model().state_dict()[name])


# What is saved


def test_the_file_of_averages_loads_strictly_into_the_model(tmp_path: Path) -> None:  # case 8
    trained(tmp_path, ema())
    make_model().load_state_dict(saved_averages(tmp_path), strict=True)


def test_saving_the_last_averages_alone_writes_them_to_the_last_step(tmp_path: Path) -> None:  # case 9
    trained(tmp_path, ema(save_weights=False, save_latest_weights=False, save_last_weights=True))
    steps = CheckpointNames(tmp_path / "test-run" / "checkpoints")
    assert len(checkpoint_folders(steps.checkpoints)) == 1
    assert "callbacks/ema/0.9.safetensors" in steps.find("last").saved.manifest.files


def test_averages_are_saved_whenever_the_interval_fires(tmp_path: Path) -> None:
    trained(tmp_path, ema(save_weights=True), max_epochs=2)
    first, last = checkpoint_folders(tmp_path / "test-run" / "checkpoints")
    assert {path.name for path in first.iterdir()} == {"callbacks", "manifest.json", "trainer.json", "rank-00000.json"}
    assert (last / "model.safetensors").exists()


def test_a_whole_checkpoint_holds_the_averages_whatever_the_settings_say(tmp_path: Path) -> None:
    quiet = ema(save_weights=False, save_last_weights=False, save_latest_weights=False)
    trained(tmp_path, quiet, {"kind": "checkpoint", "every_n_updates": 4}, max_updates=4)
    assert saved_averages(tmp_path)


def test_parts_of_a_composite_are_averaged_alone(tmp_path: Path) -> None:
    model = CompositeModel(parts={"encoder": make_model(), "decoder": make_model()})
    callback = make_callback(ema(model_paths=["encoder"]), make_trainer(tmp_path), model)
    (state,) = callback.state_files().values()
    assert set(state) == {f"encoder.{name}" for name in make_model().state_dict()}
    with pytest.raises(SpecError) as caught:
        _ = make_callback(ema(model_paths=["head"]), make_trainer(tmp_path / "b"), model).averages
    assert "'head'" in str(caught.value)


def test_a_best_checkpoint_of_averages_of_a_part_is_one_of_the_whole_model(tmp_path: Path) -> None:
    best = {"kind": "best-checkpoint", "every_n_updates": 3, "metric_key": "loss/test/total"}
    trained(tmp_path, ema(OFFLINE_LOSS, best, model_paths=["layers.0"]))
    names = CheckpointNames(tmp_path / "test-run" / "checkpoints")
    partial = names.find(checkpoint_folders(names.checkpoints)[0].name)
    assert not partial.saved.manifest.resumable
    assert set(partial.tensors()) == set(make_model().state_dict())


# What children may do


def test_a_checkpoint_of_the_model_is_refused_while_it_has_averaged_weights(tmp_path: Path) -> None:  # case 10
    trainer = make_trainer(tmp_path)
    callback = make_callback(ema(), trainer)
    with callback.averaged(0.9), pytest.raises(TrainingError) as error:
        trainer.checkpoint_writer.save()
    assert "'ema'" in error.value.message
    trainer.checkpoint_writer.save()


def test_a_checkpoint_callback_cannot_be_nested(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as error:
        make_callback(ema({"kind": "checkpoint", "every_n_epochs": 1}), make_trainer(tmp_path))
    assert "eval_callbacks" in error.value.errors()[0]["loc"]
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
    with pytest.raises(ValidationError) as error:
        make_callback(ema({**best, "eval_callbacks": [{"kind": "checkpoint"}]}), make_trainer(tmp_path / "deep"))
    assert "eval_callbacks" in error.value.errors()[0]["loc"]


def test_the_live_weights_are_back_after_a_child_failed(tmp_path: Path) -> None:
    no_loss_compares = {"x": torch.zeros(10, 3), "y_target": torch.zeros(10, 5)}
    data = DataContainer({"train": make_data().train, "test": InMemoryDataset(no_loss_compares)})
    trainer, model = make_trainer(tmp_path, data=data, callbacks=[ema(OFFLINE_LOSS)]), make_model()
    with pytest.raises((RuntimeError, UserWarning)) as caught:
        train(trainer, model)
    assert "callback 'ema/0.9/offline-loss'" in "".join(caught.value.__notes__)
    expected = trained(tmp_path / "plain", max_updates=3)[1].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_best_metrics_and_checkpoints_below_an_ema_follow_the_averages(
    tmp_path: Path, metrics_of: Any
) -> None:  # case 11
    best_metric = {
        "kind": "best-metric",
        "every_n_updates": 3,
        "source_metric_key": "loss/test/total",
        "target_metric_keys": ["loss/test/total"],
    }
    best = {"kind": "best-checkpoint", "every_n_updates": 3, "metric_key": "loss/test/total"}
    trained(tmp_path, OFFLINE_LOSS, ema(OFFLINE_LOSS, best_metric, best), max_updates=6)
    logged = metrics_of(tmp_path)[6]
    averaged = logged["ema=0.9/loss/test/total"]
    assert logged["ema=0.9/loss/test/total/at_best/loss/test/total"] == averaged
    found = CheckpointNames(tmp_path / "test-run" / "checkpoints").find("best_model.ema=0.9.loss.test.total")
    assert found.weights == "callbacks/ema/0.9.safetensors"
    weights, expected = found.saved.tensors(found.weights), averages_by_hand(0.9, 6, tmp_path / "again")[-1]
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name].double(), tensor, rtol=1e-5, atol=1e-6)


def test_children_have_state_and_ids_below_their_factor(tmp_path: Path) -> None:
    best = {"kind": "best-metric", "every_n_updates": 3, "source_metric_key": "loss/test/total"}
    best["target_metric_keys"] = ["loss/test/total"]
    trainer, _ = trained(tmp_path, ema(OFFLINE_LOSS, best, target_factors=[0.5, 0.9]), max_updates=6)
    assert set(trainer.state_dict()["callbacks"]) == {"ema/0.5/best-metric", "ema/0.9/best-metric"}


# The hooks of children


def test_children_see_averaged_weights_in_due_rounds_and_live_ones_elsewhere(lab: Path, tmp_path: Path) -> None:
    child = {"kind": "lab.watching.Watch", "every_n_updates": 2}
    with use_registry(Registry.installed(project_folders=(lab.parent,))):
        trainer, model = make_trainer(tmp_path, callbacks=[ema(child)], max_updates=4), make_model()
        train(trainer, model)
    (watch,) = trainer.callbacks[0].eval_callbacks[0.9]
    assert [key for key in watch.seen if key[0] == "periodic_callback"] == [
        ("periodic_callback", 2),
        ("periodic_callback", 4),
    ]
    averages, live = averages_by_hand(0.9, 4, tmp_path / "by hand"), model.state_dict()
    for update in (2, 4):
        for name, tensor in watch.seen["periodic_callback", update].items():
            torch.testing.assert_close(tensor.double(), averages[update][name], rtol=1e-5, atol=1e-6)
    assert [update for hook, update in watch.seen if hook == "track_after_update_step"] == [1, 2, 3, 4]
    for hook in ("track_after_update_step", "after_training"):
        assert all(torch.equal(tensor, live[name]) for name, tensor in watch.seen[hook, 4].items())
    assert ("before_training", 0) in watch.seen


def test_weights_are_exchanged_in_rounds_where_a_child_is_due_and_in_no_other(tmp_path: Path) -> None:
    trainer, model = make_trainer(tmp_path, callbacks=[ema(OFFLINE_LOSS)], max_updates=6), make_model()
    trainer.prepare(model)
    callback, exchanged = trainer.callbacks[0], []
    averaged = callback.averaged
    callback.averaged = lambda factor, **how: (
        exchanged.append((trainer.update_counter.update, how["exchange"])) or averaged(factor, **how)
    )
    train(trainer, model)
    assert exchanged == [(3, True), (6, True)]


# Resuming


def test_averages_go_on_bit_by_bit_from_the_step(tmp_path: Path) -> None:
    trained(tmp_path, ema(), {"kind": "checkpoint", "every_n_updates": 5}, max_updates=10)
    whole = saved_averages(tmp_path)
    first = checkpoint_folders(tmp_path / "test-run" / "checkpoints")[0]
    resume = {"kind": "resume", "path": str(first)}
    trained(tmp_path / "resumed", ema(), max_updates=10, initializer=resume)
    resumed = saved_averages(tmp_path / "resumed")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def resumed_averages(folder: Path, step: Path) -> dict[str, Tensor]:
    """Return the averages that an EMA restores from a checkpoint."""
    callback = make_callback(ema(), make_trainer(folder), make_model(seed=1))
    callback.resume_from_checkpoint(ResumptionPaths(step.parents[2], step.parents[1].name, step), callback.model)
    found: dict[str, Tensor] = callback.state_files()["0.9"]
    return found


def test_a_step_without_averages_falls_back_to_the_newest_one_before_it_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path, ema(), {"kind": "checkpoint", "every_n_updates": 5}, max_updates=10)
    older, newest = checkpoint_folders(tmp_path / "test-run" / "checkpoints")[-2:]
    (newest / "callbacks" / "ema" / "0.9.safetensors").write_bytes(b"damaged")
    found = resumed_averages(tmp_path / "resumed", newest)
    assert all(torch.equal(tensor, saved_averages(tmp_path, step=-2)[name]) for name, tensor in found.items())
    assert f"the averages come from {older}" in caplog.text


def test_without_any_averages_it_begins_with_the_weights_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path, max_updates=2)
    found = resumed_averages(tmp_path / "resumed", checkpoint_folders(tmp_path / "test-run" / "checkpoints")[-1])
    assert all(torch.equal(tensor, make_model(seed=1).state_dict()[name]) for name, tensor in found.items())
    assert "found no averages of factor 0.9" in caplog.text


# Wrong settings


@pytest.mark.parametrize(
    ("factors", "place", "kind"),
    [
        ([], ("target_factors",), "too_short"),
        ([1.0], ("target_factors", 0), "less_than"),
        ([0.9, 0.9], ("target_factors",), "value_error"),
    ],
    ids=str,
)
def test_wrong_factors_are_refused(factors: list[float], place: tuple[Any, ...], kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        make_callback(ema(target_factors=factors), make_trainer(tmp_path))
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == (place, kind)


def test_a_call_by_hand_needs_no_more_than_the_documented_arguments(tmp_path: Path) -> None:
    trainer, model = make_trainer(tmp_path), make_model()
    callback = make_callback(ema(), trainer, model)
    callback.before_training(update_counter=make_counter())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    callback.track_after_update_step()
    expected = {name: tensor - 0.9 for name, tensor in model.state_dict().items()}
    for name, tensor in callback.state_files()["0.9"].items():
        torch.testing.assert_close(tensor, expected[name])
