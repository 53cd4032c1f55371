"""Runs of models with tensors that few models have: they do what a plain loop does, or say before why not."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from noether.checkpoint.paths import checkpoint_folders
from noether.errors import SpecError

SGD = {"kind": "SGD", "lr": 0.1}
LOOP = {"fused": False}
OFFLINE_LOSS = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}
EMA = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.5], "eval_callbacks": [OFFLINE_LOSS]}


def model(kind, optimizer=SGD, **options):
    return {"model": {"kind": f"lab.odd_models.{kind}", "optimizer": optimizer, **options}}


def saved(outcome, file="model.safetensors"):
    return load_file(checkpoint_folders(outcome.run_dir / "checkpoints")[-1] / file)


def start(outcome):
    return load_file(checkpoint_folders(outcome.run_dir / "checkpoints")[0] / "model.safetensors")


SAVE_ALL = {"trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 1}], "checkpoints.keep_last": 99}


@pytest.mark.parametrize(("kind", "dtype"), [("SGD", "bfloat16"), ("AdamW", "float16")])
def test_weights_of_half_precision_train_as_by_the_loop(finish, final_weights, lab, kind, dtype):
    optimizer = {"kind": kind, "lr": 0.1}
    chosen = finish({**model("Half", optimizer, numbers=dtype), **SAVE_ALL})
    looped = finish(model("Half", {**optimizer, **LOOP}, numbers=dtype))
    assert final_weights(chosen) == final_weights(looped)
    assert not torch.equal(start(chosen)["lin.weight"], saved(chosen)["lin.weight"])


@pytest.mark.parametrize(
    ("by_function", "options"),
    [(False, {}), (True, {}), (True, {"momentum": 0.9, "clip_grad_norm": 0.1}), (False, {"clip_grad_value": 0.01})],
)
def test_sparse_gradients_train_as_by_the_loop_and_can_be_watched(finish, final_weights, lab, options, by_function):
    accumulated = {"trainer.max_batch_size": 4, "trainer.callbacks": [EMA]}
    changes = {**model("Tokens", {**SGD, **options}, by_function=by_function), **accumulated}
    looped = {**model("Tokens", {**SGD, **LOOP, **options}, by_function=by_function), **accumulated}
    weights = {
        final_weights(finish(changes)),
        final_weights(finish(looped)),
        final_weights(finish({**changes, "trainer.monitor_training_stability": True, "trainer.monitor_interval": 1})),
    }
    assert len(weights) == 1


def test_an_optimizer_without_sparse_gradients_ends_the_run_before_it_trains(run, lab):
    outcome = run(model("Tokens", {"kind": "AdamW"}))
    assert outcome.exit_code == 1
    assert "AdamW" in outcome.error.message
    assert "emb.weight" in outcome.error.message


def test_an_update_with_sparse_gradients_that_are_not_finite_is_skipped(finish, lab, metric_lines, workplace):
    import numpy as np

    data = dict(np.load(workplace / "train.npz"))
    data["y_target"][3] = np.nan
    np.savez(workplace / "train.npz", **data)
    outcome = finish({**model("Tokens"), "trainer.skip_nan_loss": True})
    assert all(tensor.isfinite().all() for tensor in saved(outcome).values())


def test_a_frozen_column_of_a_trained_tensor_stays(finish, final_weights, lab):
    chosen = finish({**model("Columns"), **SAVE_ALL})
    assert torch.equal(start(chosen)["b"], saved(chosen)["b"])
    assert final_weights(chosen) == final_weights(finish(model("Columns", {**SGD, **LOOP})))


def test_a_fused_kernel_that_does_not_suit_is_refused_before_training(run, lab):
    for kind, name in (("Half", "lin.weight"), ("Columns", "a"), ("Tokens", "emb.weight")):
        with pytest.raises(SpecError) as caught:
            run(model(kind, {**SGD, "fused": True}))
        assert f"'{name}'" in caught.value.message


def test_gradients_that_the_scaler_of_half_precision_does_not_take_are_refused_before_training(run, lab):
    outcome = run({**model("Half", numbers="float16"), "trainer.precision": "fp16"})
    assert outcome.exit_code == 2
    assert "'lin.weight'" in outcome.error.message


# Averages


@pytest.mark.parametrize("flat", [False, True])
def test_averages_copy_parameters_of_integers_and_booleans(finish, lab, flat):
    outcome = finish({**model("Indexed"), "trainer.callbacks": [{**EMA, "flat_parameters": flat}]})
    averages, weights = saved(outcome, "callbacks/ema/0.5.safetensors"), saved(outcome)
    assert averages.keys() == weights.keys()
    assert all(torch.equal(averages[name], weights[name]) for name in ("index", "chosen"))
    assert not torch.equal(averages["lin.weight"], weights["lin.weight"])


# Buffers


def until(updates, **changes):
    return {**model("Remembering"), "trainer.max_epochs": None, "trainer.max_updates": updates, **changes}


def test_buffers_that_grow_and_that_begin_as_none_are_averaged_and_resumed(finish, final_weights, lab):
    callbacks = {"trainer.callbacks": [EMA]}
    whole = finish(until(12, **callbacks))
    finish(until(5, **callbacks), run_id="cut")
    resumed = finish(until(12, **callbacks), run_id="cut", resume="auto")
    assert saved(resumed)["seen"].shape == (12, 3)
    assert final_weights(resumed) == final_weights(whole)
    averages = saved(resumed, "callbacks/ema/0.5.safetensors")
    assert torch.equal(averages["seen"], saved(resumed)["seen"])
    assert torch.equal(averages["first"], saved(resumed)["first"])


def test_another_run_begins_with_buffers_that_grew(finish, lab):
    finish(until(5), run_id="first")
    again = finish(until(2, initializer={"kind": "previous-run", "run_id": "first"}))
    assert saved(again)["seen"].shape == (7, 3)


@pytest.mark.parametrize("checkpoint", ["latest", "best_model.loss.test.total", "best_model.ema=0.5.loss.test.total"])
def test_a_checkpoint_with_buffers_that_grew_is_evaluated(finish, lab, noether_command, checkpoint):
    best = {"kind": "best-checkpoint", "every_n_epochs": 1, "metric_key": "loss/test/total"}
    averaged = {**EMA, "eval_callbacks": [OFFLINE_LOSS, best]}
    trained = finish(until(12, **{"trainer.callbacks": [OFFLINE_LOSS, best, averaged]}), run_id="trained")
    ended = noether_command("eval", "trained", "--checkpoint", checkpoint, "--json")
    assert ended.code == 0, ended.err
    if checkpoint == "latest":
        found = json.loads(ended.out.splitlines()[-1])["metrics"]
        assert found["loss/test/total"] == trained.metrics["loss/test/total"]


def test_a_buffer_that_the_first_forward_pass_registers_is_named_before_training(run, lab):
    outcome = run(model("Late"))
    assert outcome.exit_code == 1
    assert "forward pass has added mean" in outcome.error.message
    assert "register_buffer('mean', None)" in outcome.error.hint
