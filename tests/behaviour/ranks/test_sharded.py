"""Ranks that each hold a share of the model train as ranks with the whole model do, and save it together."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from noether.checkpoint.saved import SavedCheckpoint

FILES = ["model.safetensors", "optimizer.safetensors", "callbacks/ema/0.9.safetensors"]
MLP = {"kind": "mlp", "hidden": [9, 7], "out_features": {"y": 2}, "optimizer": {"kind": "AdamW", "lr": 0.01}}
SHARDED = {"trainer.parallel": "fsdp2", "trainer.shard": ["layers.*"]}
EVALUATES = {"kind": "offline-loss", "every_n_updates": 10, "dataset_key": "test", "batch_size": 3}
EVERYTHING = {
    "model": {**MLP, "optimizer": {**MLP["optimizer"], "clip_grad_norm": 0.1}},
    "trainer.max_updates": 50,
    "trainer.max_batch_size": 10,
    "trainer.track_every_n_updates": 1,
    "trainer.monitor_training_stability": True,
    "checkpoints.keep_last": 9,
    "trainer.callbacks": [
        {"kind": "checkpoint", "every_n_updates": 10},
        EVALUATES,
        {"kind": "best-checkpoint", "every_n_updates": 10, "metric_key": "loss/test/total"},
        {"kind": "ema", "every_n_updates": 20, "target_factors": [0.9], "eval_callbacks": [EVALUATES]},
    ],
}


def saved(trained):
    """Return the newest checkpoint of a run."""
    assert trained.error is None, trained.error
    return SavedCheckpoint.open(max((trained.run_dir / "checkpoints").glob("step-*")))


def require_close(one, other, tolerance=1e-5):
    """Compare metrics and tensors of two runs."""
    assert [sorted(record) for record in one.metrics] == [sorted(record) for record in other.metrics]
    for ours, theirs in zip(one.metrics, other.metrics, strict=True):
        assert theirs == pytest.approx(ours, rel=tolerance, abs=1e-6)
    require_close_files(one, other, tolerance)


def require_close_files(one, other, tolerance=1e-5):
    files, others = saved(one), saved(other)
    assert files.manifest.holds - others.manifest.holds <= {f"rank-{rank:05d}.json" for rank in range(9)}
    for name in files.manifest.holds & set(FILES):
        torch.testing.assert_close(others.tensors(name), files.tensors(name), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("updates", [10, pytest.param(50, marks=pytest.mark.long)])
def test_two_sharded_ranks_train_as_two_whole_ones(on, noether_command, updates):
    changes = {**EVERYTHING, "trainer.max_updates": updates}
    whole, sharded = on(2, changes)[0], on(2, {**changes, **SHARDED})[0]
    require_close(whole, sharded)
    assert saved(sharded).manifest.holds >= set(FILES)
    parts = [file for file in saved(sharded).manifest.files if file.startswith("shards/")]
    assert sorted({file.split("/")[1] for file in parts}) == ["00000", "00001"]
    assert noether_command("checkpoint", "export", sharded.run_dir).code == 0
    (exported,) = Path().glob("*.safetensors")
    torch.testing.assert_close(load_file(exported), saved(sharded).tensors("model.safetensors"), rtol=0, atol=0)


@pytest.mark.long
def test_a_checkpoint_of_two_ranks_goes_on_on_one_and_then_on_three(on):
    straight = on(2, {**EVERYTHING, **SHARDED}, run_id="straight")[0]
    shutil.copytree(straight.run_dir, straight.run_dir.with_name("again"))
    assert (
        on(1, {**EVERYTHING, **SHARDED, "trainer.max_updates": 40}, run_id="again", resume="E5_U20_S1200")[0].code == 0
    )
    again = on(3, {**EVERYTHING, **SHARDED}, run_id="again", resume="auto")[0]
    np.testing.assert_allclose(again.losses, straight.losses, rtol=1e-5)
    require_close_files(straight, again)
    assert saved(again).manifest.world_size == 3


@pytest.mark.long
@pytest.mark.parametrize("world", [2, 3])
def test_a_restart_on_as_many_ranks_ends_with_the_same_bytes(on, world):
    changes = {**EVERYTHING, **SHARDED}
    straight = on(world, changes, run_id="straight")[0]
    shutil.copytree(straight.run_dir, straight.run_dir.with_name("again"))
    again = on(world, changes, run_id="again", resume="E7_U30_S1800")[0]
    assert again.files == straight.files
    assert again.metrics == straight.metrics


@pytest.mark.long
@pytest.mark.parametrize("layouts", [("replicated", "fsdp2"), ("fsdp2", "replicated")])
def test_a_run_goes_on_in_the_other_layout(on, layouts):
    one, other = ({**EVERYTHING, "trainer.parallel": layout} for layout in layouts)
    straight = on(2, one, run_id="straight")[0]
    shutil.copytree(straight.run_dir, straight.run_dir.with_name("again"))
    again = on(2, other, run_id="again", resume="E7_U30_S1800")[0]
    require_close(straight, again)


@pytest.mark.long
@pytest.mark.parametrize("samples", [1, 2, 7])
@pytest.mark.parametrize("world", [2, 3])
def test_an_evaluation_ends_whatever_number_of_batches_a_rank_has(on, world, samples):
    arrays = np.load("test.npz")
    np.savez(f"test-{samples}.npz", **{name: array[:samples] for name, array in arrays.items()})
    ordered = {"kind": "lab.ranks.Ordered", "every_n_updates": 2, "dataset_key": "test", "batch_size": 2}
    child = {**EVALUATES, "every_n_updates": 2}
    nested = {"kind": "ema", "every_n_updates": 2, "target_factors": [0.5], "eval_callbacks": [child]}
    changes = {
        "trainer.max_updates": 4,
        "trainer.callbacks": [ordered, nested],
        "datasets.test.path": f"test-{samples}.npz",
    }
    (single,), ranks = on(1, changes), on(world, {**changes, **SHARDED})
    require_close(single, ranks[0])
    assert single.metrics[-1]["ordered/samples"] == samples


@pytest.mark.long
@pytest.mark.parametrize("batch", [None, 5], ids=["at once", "accumulated"])
def test_losses_are_weighted_by_what_they_count(on, batch):
    changes = {"model": MLP, "trainer.loss_fn": "lab.ranks.large_ones", "trainer.max_updates": 10}
    changes |= {"trainer.max_batch_size": batch} if batch else {}
    (single,), ranks = on(1, changes), on(2, {**changes, **SHARDED})
    require_close(single, ranks[0], 1e-4)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["poisoned", "steep"])
def test_an_update_that_is_not_finite_on_one_rank_is_skipped_on_all(on, loss):
    poison = {"kind": "lab.ranks.Poisons", "ranks": [1], "update": 3}
    changes = {
        "model": {**MLP, "hidden": []},  # of which rank 0 has the first output, and rank 1 the second
        "trainer.loss_fn": f"lab.ranks.{loss}",
        "trainer.skip_nan_loss": True,
        "trainer.max_updates": 6,
        "trainer.callbacks": [poison],
    }
    whole, sharded = on(2, changes)[0], on(2, {**changes, **SHARDED})[0]
    require_close(whole, sharded)
    weights = saved(sharded).tensors("model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"kind": "lab.ranks.Normed", "optimizer": {"kind": "SGD", "lr": 0.05, "momentum": 0.9}}},
        {"model": {**MLP, "checkpoint": ["layers.*"]}},
        {"model": {**MLP, "optimizer": {"kind": "SGD", "lr": 0.05}}, "trainer.shard": None},
        {"model": {**MLP, "frozen": ["layers.0.*"]}},
    ],
    ids=["batch norm", "recomputed", "one group", "frozen"],
)
def test_other_models_train_as_whole_ones(on, changes):
    changes = {"trainer.max_updates": 10, **changes}
    (single,), ranks = on(2, changes)[:1], on(2, {**SHARDED, **changes, "trainer.parallel": "fsdp2"})
    require_close(single, ranks[0], 1e-4)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["lab.ranks.Normed", "mlp"])
def test_parameters_are_gathered_in_bfloat16(on, kind):
    model = {**MLP, "kind": kind} if kind == "mlp" else {"kind": kind, "optimizer": MLP["optimizer"]}
    changes = {"model": model, "trainer.precision": "bf16", "trainer.max_updates": 10, "trainer.callbacks": [EVALUATES]}
    whole, sharded = on(2, changes)[0], on(2, {**changes, **SHARDED})[0]
    require_close(whole, sharded, 0.1)
    weights = saved(sharded).tensors("model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}


REFUSED = {
    'precision = "fp16"': {"trainer.precision": "fp16"},
    "use_torch_compile": {"trainer.use_torch_compile": True},
    "asynchronous": {"checkpoints.asynchronous": True},
    "LBFGS": {"model": {**MLP, "optimizer": {"kind": "LBFGS"}}},
    "flat_parameters": {
        "trainer.callbacks": [{"kind": "ema", "every_n_updates": 1, "target_factors": [0.9], "flat_parameters": True}],
    },
    "`shard` pattern": {"trainer.shard": ["blocks.*"]},
}


@pytest.mark.long
@pytest.mark.parametrize("setting", REFUSED)
def test_a_setting_that_does_not_fit_is_refused_before_training(on, setting):
    ends = on(2, {"model": MLP, **SHARDED, **REFUSED[setting]})
    assert {end.code for end in ends} == {2}
    assert setting.partition(" = ")[0] in ends[0].error


@pytest.mark.long
@pytest.mark.parametrize("kind", ["OnOneRank", "Seldom"])
def test_parameters_that_one_rank_does_not_use_get_the_gradients_of_the_others(on, kind):
    changes = {
        "model": {"kind": f"lab.ranks.{kind}", "optimizer": {"kind": "SGD", "lr": 0.1}},
        "trainer.max_updates": 6,
    }
    whole, sharded = on(2, changes)[0], on(2, {**changes, "trainer.parallel": "fsdp2"})[0]
    require_close(whole, sharded)


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_one_rank_is_the_message_of_all(on, rank):
    raises = {"kind": "lab.ranks.Raises", "ranks": [rank], "update": 3}
    ends = on(2, {"model": MLP, **SHARDED, "trainer.callbacks": [raises]})
    assert {end.code for end in ends} == {1}
    assert all(f"out of paper on rank {rank}" in end.error for end in ends)


@pytest.mark.long
def test_an_error_in_the_forward_pass_of_one_rank_is_the_message_of_all(on):
    ends = on(
        2,
        {
            "model": {"kind": "lab.ranks.Fragile", "optimizer": MLP["optimizer"]},
            **SHARDED,
            "trainer.shard": ["first", "second"],
        },
    )
    assert {end.code for end in ends} == {1}
    assert all("out of paper in the forward pass of rank 1" in end.error for end in ends), ends


@pytest.mark.long
@pytest.mark.parametrize(
    "way",
    [
        "beside_buffers",
        "in_a_buffer_of_two_layers",
        "drawn_on_the_cpu",
        "drawn_before_values_are_needed",
        "with_a_way_out",
        "for_meta",
    ],
)
def test_a_model_is_the_same_on_all_ranks_however_its_constructor_makes_its_numbers(on, way):
    changes = {"model": {"kind": "lab.ranks.Constructed", "way": way, "optimizer": MLP["optimizer"]}}
    changes |= {"trainer.max_updates": 5, "trainer.callbacks": [{"kind": "lab.ranks.Draws", "ranks": [0, 1]}]}
    whole, sharded = on(2, changes)[0], on(2, {**changes, "trainer.parallel": "fsdp2"})[0]
    require_close(whole, sharded)


@pytest.mark.long
def test_complex_weights_are_sharded(on):
    changes = {"model": {"kind": "lab.ranks.Complex", "optimizer": MLP["optimizer"]}, "trainer.max_updates": 5}
    whole, sharded = on(2, changes)[0], on(2, {**changes, "trainer.parallel": "fsdp2"})[0]
    require_close(whole, sharded)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("Held", "layers.weight"),
        ("OfTwoTypes", "float64"),
        ("WithoutElements", "'nothing'"),
        ("AsWideAsItsRank", "rank 1 has built another model than rank 0"),
    ],
)
def test_a_model_that_cannot_be_sharded_is_refused_before_training(on, kind, names):
    changes = {"model": {"kind": f"lab.ranks.{kind}", "optimizer": MLP["optimizer"]}, "trainer.parallel": "fsdp2"}
    ends = on(2, changes)
    assert {end.code for end in ends} == {2}
    assert all(names in end.error for end in ends)


@pytest.mark.parametrize(
    ("needs_values", "born"), [(False, "meta\n"), pytest.param(True, "cpu\n", marks=pytest.mark.long)]
)
def test_rank_0_alone_builds_the_values_of_a_model_whose_class_allows_that(on, needs_values, born):
    optimizer = {"kind": "AdamW", "lr": 0.01}
    model = {"kind": "lab.ranks.Born", "needs_values": needs_values, "optimizer": optimizer}
    changes = {"model": model, "trainer.callbacks": [{"kind": "checkpoint", "every_n_updates": 5}]}
    whole = on(2, changes)[0]
    for file in Path().glob("born-*.txt"):
        file.unlink()
    sharded = on(2, {**changes, **SHARDED})[0]
    assert [Path(f"born-{rank}.txt").read_text() for rank in (0, 1)] == ["cpu\n", born]
    require_close(whole, sharded)
