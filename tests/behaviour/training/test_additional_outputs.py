"""Additional outputs of a trainer in the metrics and in files of the run folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from noether.errors import TrainingError

TRACK = {"id": "outputs", "kind": "track-additional-outputs", "every_n_updates": 3}


@pytest.fixture
def talk(tiny_spec, lab, finish):
    """Runs six updates of a trainer with outputs, tracked as given; returns the outcome and all outputs by step."""
    kept = {key: value for key, value in tiny_spec["trainer"].items() if key not in ("kind", "field_weights")}
    tiny_spec["trainer"] = {**kept, "kind": "lab.outputs.Talkative", "max_epochs": 1}

    def run_with(callbacks, **trainer):
        Path("outputs.txt").unlink(missing_ok=True)
        notes = {"kind": "lab.outputs.Notes", "every_n_updates": 1}
        changes = {f"trainer.{field}": value for field, value in trainer.items()}
        outcome = finish({"trainer.callbacks": [*callbacks, notes], **changes})
        return outcome, [json.loads(line) for line in Path("outputs.txt").read_text().splitlines()]

    return run_with


@pytest.mark.parametrize("max_batch_size", [8, 2])
def test_the_mean_is_over_all_accumulation_steps_of_each_interval(talk, metric_lines, max_batch_size):
    outcome, steps = talk([{**TRACK, "patterns": ["loss"]}], max_batch_size=max_batch_size)
    half = 3 * 8 // max_batch_size
    assert len(steps) == 2 * half
    logged = [line["metrics"] for line in metric_lines(outcome) if "first_loss/outputs" in line["metrics"]]
    for name in ("first_loss", "second_loss"):
        expected = [np.mean([step[name] for step in part]) for part in (steps[:half], steps[half:])]
        assert [metrics[f"{name}/outputs"] for metrics in logged] == pytest.approx(expected)
    assert "residuals/outputs" not in outcome.metrics


def test_last_is_the_last_accumulation_step(talk):
    outcome, steps = talk([{**TRACK, "keys": ["first_loss"], "reduce": "last"}], max_batch_size=2)
    assert outcome.metrics["first_loss/outputs"] == pytest.approx(steps[-1]["first_loss"])


def test_files_hold_the_whole_outputs_of_each_interval(talk):
    outcome, steps = talk([{**TRACK, "keys": ["residuals"], "save_output": True}], max_batch_size=4)
    files = sorted((outcome.run_dir / "outputs/outputs").iterdir())
    assert [file.name for file in files] == ["E0_U3_S24.safetensors", "E1_U6_S48.safetensors"]
    for file, part in zip(files, (steps[:6], steps[6:]), strict=True):
        np.testing.assert_allclose(load_file(file)["residuals"], [step["residuals"] for step in part])


def test_no_step_of_an_update_that_is_not_applied_counts(talk):
    arrays = dict(np.load("train.npz"))
    arrays["y_target"][20] = np.nan  # spoils one accumulation step of one of the six updates
    np.savez("train.npz", **arrays)
    track = {**TRACK, "keys": ["first_loss"], "every_n_updates": 6}
    outcome, _ = talk([{**track, "save_output": True}], max_batch_size=2, skip_nan_loss=True)
    (file,) = (outcome.run_dir / "outputs/outputs").iterdir()
    counted = load_file(file)["first_loss"]
    assert counted.shape == (5 * 4,)
    assert outcome.metrics["first_loss/outputs"] == pytest.approx(counted.mean())


def test_tracking_outputs_leaves_training_as_it_is(talk, final_weights):
    everything = {"keys": ["residuals"], "patterns": ["loss"], "save_output": True, "verbose": True}
    watched, _ = talk([{**TRACK, **everything}])
    assert final_weights(watched) == final_weights(talk([])[0])


def test_a_trainer_without_outputs_gets_a_hint(run):
    error = run({"trainer.callbacks": [{**TRACK, "keys": ["first_loss"]}]}).error
    assert isinstance(error, TrainingError)
    assert "callback 'outputs': missing output 'first_loss'" in error.message
    assert 'return losses, {"first_loss": …}' in error.hint
