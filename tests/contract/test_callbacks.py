"""Every built-in callback passes the contract of callbacks; those that only log, and every run has, in `.ci/full`."""

from __future__ import annotations

import pytest

from noether.kernel.entries import installed_entries
from noether.testing import CallbackContract

ON_TEST = {"every_n_epochs": 1, "dataset_key": "test"}
METRIC = {"metric_key": "loss/test/total"}
LOSS = {"kind": "offline-loss", **ON_TEST}


class TestBestCheckpoint(CallbackContract):
    config = {"kind": "best-checkpoint", "every_n_epochs": 1, **METRIC}
    before = (LOSS,)
    nests = False


class TestBestMetric(CallbackContract):
    config = {
        "kind": "best-metric",
        "every_n_epochs": 1,
        "source_metric_key": "loss/test/total",
        "target_metric_keys": ["loss/test/y_loss"],
    }
    before = (LOSS,)


class TestCheckpoint(CallbackContract):
    config = {"kind": "checkpoint", "every_n_epochs": 1}
    nests = False


@pytest.mark.long
class TestDatasetStats(CallbackContract):
    config = "dataset-stats"


class TestEma(CallbackContract):
    config = {"kind": "ema", "every_n_epochs": 1, "target_factors": [0.9]}
    nests = False


@pytest.mark.long
class TestEta(CallbackContract):
    config = {"kind": "eta", "every_n_updates": 1}


class TestFixedEarlyStopper(CallbackContract):
    config = {"kind": "fixed-early-stopper", "stop_at_update": 9}
    mutates = True


class TestLearningRate(CallbackContract):
    config = {"kind": "lr", "every_n_updates": 1}


class TestMetricEarlyStopper(CallbackContract):
    config = {"kind": "metric-early-stopper", "every_n_epochs": 1, "patience": 5, **METRIC}
    before = (LOSS,)


class TestOfflineLoss(CallbackContract):
    config = LOSS


class TestOfflineMetrics(CallbackContract):
    config = {"kind": "offline-metrics", "metrics": {"y": ["rmse"]}, **ON_TEST}


class TestOnlineLoss(CallbackContract):
    config = {"kind": "online-loss", "every_n_updates": 3}


@pytest.mark.long
class TestParameterCount(CallbackContract):
    config = "param-count"


@pytest.mark.long
class TestPeakMemory(CallbackContract):
    config = {"kind": "peak-memory", "every_n_updates": 1}


class TestProgress(CallbackContract):
    config = {"kind": "progress", "every_n_updates": 1}


class TestTrackAdditionalOutputs(CallbackContract):
    config = {"kind": "track-additional-outputs", "every_n_updates": 1, "keys": ["y_output"]}
    spec = {"trainer": {"track_outputs": True}}


@pytest.mark.long
class TestTrainTime(CallbackContract):
    config = {"kind": "train-time", "every_n_epochs": 1}


class TestTrainingStability(CallbackContract):
    budget_us = 500  # it takes the norm of all gradients when its interval fires
    config = {"kind": "training-stability", "every_n_updates": 1}


def test_every_built_in_callback_has_a_contract():
    classes = [value for name, value in globals().items() if name.startswith("Test")]
    tested = {contract().table["kind"] for contract in classes}
    registered = {entry.name for entry in installed_entries() if entry.role == "callback" and entry.is_built_in}
    assert tested == registered
