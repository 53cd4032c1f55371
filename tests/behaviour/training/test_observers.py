"""A callback that only observes leaves the weights unchanged, bit by bit."""

import pytest

from noether.kernel.registry import Registry

OFFLINE_LOSS = {"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "test"}
LOOKS = {
    "checkpoint": {"kind": "checkpoint", "every_n_updates": 1},
    "online-loss": {"kind": "online-loss", "every_n_updates": 1},
    "progress": {"kind": "progress", "every_n_updates": 1},
    "eta": {"kind": "eta", "every_n_updates": 1},
    "lr": {"kind": "lr", "every_n_updates": 1},
    "param-count": {"kind": "param-count"},
    "dataset-stats": {"kind": "dataset-stats"},
    "train-time": {"kind": "train-time", "every_n_updates": 1},
    "peak-memory": {"kind": "peak-memory", "every_n_updates": 1},
    "training-stability": {"kind": "training-stability", "every_n_updates": 1},
    "offline-loss": OFFLINE_LOSS,
    "offline-metrics": {
        "kind": "offline-metrics",
        "every_n_updates": 1,
        "dataset_key": "train",
        "metrics": {"y": ["rmse", "r2"]},
    },
    "ema": {
        "kind": "ema",
        "every_n_updates": 2,
        "target_factors": [0.5, 0.9],
        "eval_callbacks": [OFFLINE_LOSS, {"kind": "lab.callbacks.Gambler", "every_n_updates": 1}],
    },
    "ema of flat parameters": {
        "kind": "ema",
        "every_n_updates": 2,
        "target_factors": [0.5],
        "flat_parameters": True,
        "eval_callbacks": [OFFLINE_LOSS],
    },
    "best-checkpoint": [
        OFFLINE_LOSS,
        {
            "kind": "best-checkpoint",
            "every_n_updates": 1,
            "metric_key": "loss/test/total",
            "tolerances": [1],
            "eval_callbacks": [{"kind": "offline-loss", "dataset_key": "train"}],
        },
    ],
    "best-metric": [
        OFFLINE_LOSS,
        {
            "kind": "best-metric",
            "every_n_updates": 1,
            "source_metric_key": "loss/test/total",
            "target_metric_keys": ["loss/test/y_loss"],
        },
    ],
    "track-additional-outputs": {
        "kind": "track-additional-outputs",
        "every_n_updates": 1,
        "keys": ["y_output"],
        "save_output": True,
    },
    "metric-early-stopper": [
        OFFLINE_LOSS,
        {"kind": "metric-early-stopper", "every_n_updates": 1, "metric_key": "loss/test/total", "patience": 99},
    ],
    "fixed-early-stopper": {"kind": "fixed-early-stopper", "stop_after_seconds": 1e6},
    "a callback that draws random numbers": {"kind": "lab.callbacks.Gambler", "every_n_updates": 1},
}
DROPOUT = {"model.dropout": 0.3}  # so that training draws random numbers as well


@pytest.fixture
def alone(finish, final_weights, lab):
    """The weights that a run without any callback ends with."""
    return final_weights(finish({**DROPOUT, "trainer.add_default_callbacks": False}))


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_changes_no_bit(finish, final_weights, alone, look):
    callbacks = look if isinstance(look, list) else [look]
    changes = {"trainer.add_default_callbacks": False, "trainer.track_outputs": True, "trainer.callbacks": callbacks}
    watched = finish({**DROPOUT, **changes})
    assert final_weights(watched) == alone


def test_no_built_in_callback_is_missing_here():
    built_in = {entry.name for entry in Registry.installed().entries("callback") if entry.is_built_in}
    assert built_in <= LOOKS.keys()


def test_the_default_callbacks_change_no_bit(finish, final_weights, alone):
    assert final_weights(finish({**DROPOUT, "trainer.monitor_training_stability": True})) == alone


def test_training_draws_random_numbers_in_these_tests(finish, final_weights, alone):
    assert final_weights(finish()) != alone
