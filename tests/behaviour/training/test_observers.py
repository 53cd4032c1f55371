"""A callback that only looks leaves the weights as they are, to the last bit."""

import pytest

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
    "offline-loss": {"kind": "offline-loss", "every_n_updates": 1, "dataset_key": "test"},
    "offline-metrics": {
        "kind": "offline-metrics",
        "every_n_updates": 1,
        "dataset_key": "train",
        "metrics": {"y": ["rmse", "r2"]},
    },
    "a callback that draws random numbers": {"kind": "lab.callbacks.Gambler", "every_n_updates": 1},
}
DROPOUT = {"model.dropout": 0.3}  # so that training draws random numbers as well


@pytest.fixture
def alone(finish, final_weights, lab):
    """The weights that a run without any callback ends with."""
    return final_weights(finish({**DROPOUT, "trainer.add_default_callbacks": False}))


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_changes_no_bit(finish, final_weights, alone, look):
    watched = finish({**DROPOUT, "trainer.add_default_callbacks": False, "trainer.callbacks": [look]})
    assert final_weights(watched) == alone


def test_the_default_callbacks_change_no_bit(finish, final_weights, alone):
    assert final_weights(finish({**DROPOUT, "trainer.monitor_training_stability": True})) == alone


def test_training_draws_random_numbers_in_these_tests(finish, final_weights, alone):
    assert final_weights(finish()) != alone
