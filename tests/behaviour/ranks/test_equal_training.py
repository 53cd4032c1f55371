"""Several ranks train as one process does: the same samples, losses, gradients, statistics and metrics."""

import numpy as np
import pytest
import torch
from safetensors.torch import load

ROUNDING = 1e-5
"""Largest relative difference of two losses; 1.1e-6 was measured, in float32 over 200 updates."""


def furthest(ones, others):
    """Return the largest relative difference of two curves."""
    assert len(ones) == len(others) > 0
    return float(np.max(np.abs(ones - others) / np.abs(ones)))


def require_equal_metrics(ones, others, tolerance=1e-4):
    assert [sorted(record) for record in ones] == [sorted(record) for record in others]
    for one, other in zip(ones, others, strict=True):
        assert other == pytest.approx(one, rel=tolerance, abs=1e-6)


@pytest.mark.parametrize("world", [2, *(pytest.param(world, marks=pytest.mark.long) for world in (3, 5))])
def test_the_loss_curve_of_200_updates_is_that_of_one_process(on, world, figures):
    changes = {"trainer.max_updates": 200}
    (single,), ranks = on(1, changes), on(world, changes)
    difference = furthest(single.losses, ranks[0].losses)
    figures(f"loss curve of {world} ranks", difference=difference)
    assert difference < ROUNDING


def test_the_weights_of_two_ranks_are_those_of_one_process(on):
    (single,), ranks = on(1), on(2)
    require_close_files(single, ranks[0])


def require_close_files(one, other):
    weights, others = (load(trained.files["model.safetensors"]) for trained in (one, other))
    torch.testing.assert_close(others, weights, rtol=1e-4, atol=1e-5)


PADDED = {
    "datasets.train": {"kind": "lab.ranks.Points", "collate": "pad"},
    "datasets.test": {"kind": "lab.ranks.Points", "collate": "pad"},
    "model": {"kind": "lab.ranks.PerPoint", "optimizer": {"kind": "AdamW", "lr": 0.01}},
    "trainer.callbacks": [{"kind": "offline-loss", "every_n_updates": 5, "dataset_key": "test", "batch_size": 7}],
}
COUNTED = {"model": PADDED["model"], "trainer.loss_fn": "lab.ranks.large_ones"}
PLAIN = {"model": PADDED["model"]}  # a batch norm has the statistics of one accumulation step


@pytest.mark.parametrize("batch", [None, 5], ids=["at once", "accumulated"])
@pytest.mark.parametrize("changes", [PADDED, COUNTED, PLAIN], ids=["padded", "counted", "plain"])
@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.long)])
def test_losses_are_weighted_by_what_they_count_over_all_ranks(on, world, changes, batch):
    (single,) = on(1, {**changes, "trainer.max_updates": 10})
    ranks = on(world, {**changes, "trainer.max_updates": 10, **({"trainer.max_batch_size": batch} if batch else {})})
    require_equal_metrics(single.metrics, ranks[0].metrics)


@pytest.mark.parametrize("samples", [pytest.param(1, marks=pytest.mark.long), 2, 7])
@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.long), 3])
def test_each_sample_is_evaluated_once_and_in_order(on, world, samples):
    evaluate = [
        {"kind": "lab.ranks.Ordered", "every_n_updates": 2, "dataset_key": "test", "batch_size": 2},
        {"kind": "offline-loss", "every_n_updates": 2, "dataset_key": "test"},
        {"kind": "offline-metrics", "every_n_updates": 2, "dataset_key": "test", "metrics": {"y": ["rmse"]}},
        {
            "kind": "ema",
            "every_n_updates": 2,
            "target_factors": [0.5],
            "eval_callbacks": [{"kind": "offline-loss", "every_n_updates": 2, "dataset_key": "test"}],
        },
    ]
    changes = {"trainer.max_updates": 4, "trainer.callbacks": evaluate, "datasets.test.path": f"test-{samples}.npz"}
    arrays = np.load("test.npz")
    np.savez(f"test-{samples}.npz", **{name: array[:samples] for name, array in arrays.items()})
    (single,), ranks = on(1, changes), on(world, changes)
    assert single.metrics[-1]["ordered/samples"] == samples
    require_equal_metrics(single.metrics, ranks[0].metrics)


@pytest.mark.long
def test_dropout_is_reproducible_on_the_same_number_of_ranks(on):
    changes = {"model.dropout": 0.5}
    once, again = on(2, changes)[0], on(2, changes)[0]
    assert once.files == again.files
    assert list(once.losses) == list(again.losses)


@pytest.mark.long  # `test_an_error_that_all_ranks_find_is_printed_by_one` has the same error on three ranks
@pytest.mark.parametrize("world", [7, 11])
def test_a_batch_that_the_ranks_do_not_divide_is_refused_with_sizes_that_fit(on, world):
    ends = on(world)
    assert {end.code for end in ends} == {2}
    assert f"effective_batch_size={60 // world * world}" in ends[0].error


@pytest.mark.long
@pytest.mark.parametrize("world", [2, 3])
def test_ddp_trains_as_exact_does(on, world):
    exact, ddp = on(world)[0], on(world, {"trainer.reduce": "ddp"})[0]
    require_equal_metrics(exact.metrics, ddp.metrics)
    require_close_files(exact, ddp)


@pytest.mark.long
@pytest.mark.parametrize("batch", [5, 10])
def test_ddp_accumulates_as_one_process_does(on, batch):
    changes = {**PLAIN, "trainer.max_batch_size": batch}
    (single,), ranks = on(1, changes), on(2, {**changes, "trainer.reduce": "ddp"})
    require_equal_metrics(single.metrics, ranks[0].metrics)


@pytest.mark.long
@pytest.mark.parametrize("reduce", ["exact", "ddp"])
def test_a_layer_that_only_some_updates_use_trains_as_in_one_process(on, reduce):
    changes = {
        "model": {"kind": "lab.ranks.Seldom", "optimizer": {"kind": "SGD", "lr": 0.1}},
        "trainer.reduce": reduce,
        "trainer.find_unused_params": True,
    }
    (single,), ranks = on(1, changes), on(2, changes)
    require_equal_metrics(single.metrics, ranks[0].metrics)


@pytest.mark.parametrize("reduce", ["exact", pytest.param("ddp", marks=pytest.mark.long)])
def test_a_parameter_without_a_gradient_on_one_rank_gets_that_of_the_other(on, reduce):
    changes = {
        "model": {"kind": "lab.ranks.OnOneRank", "optimizer": {"kind": "SGD", "lr": 0.1}},
        "trainer.reduce": reduce,
        "trainer.find_unused_params": True,
        "trainer.max_updates": 2,
    }
    before, after = (
        load(on(2, {**changes, "trainer.max_updates": updates})[0].files["model.safetensors"]) for updates in (1, 2)
    )
    assert all(not torch.equal(before[name], after[name]) for name in before)
