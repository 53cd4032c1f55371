"""Built-in components of the other roles pass their contracts; the `mlflow` tracker is tested with real servers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from noether.testing import (
    CollatorContract,
    DatasetContract,
    LossContract,
    ModelContract,
    OptimizerContract,
    ScheduleContract,
    TrackerContract,
    TrainerContract,
    TransformContract,
)

IMAGES: dict[str, Any] = {
    "trainer": {
        "forward_properties": ["image"],
        "target_properties": ["label_target"],
        "field_weights": {"y": None, "label": 1.0},
        "loss_fn": "cross-entropy",
        "effective_batch_size": 256,
        "max_updates": 4,
    },
    "model": {"out_features": {"y": None, "label": 10}},
}


class TestMse(LossContract):
    config = "mse"


@pytest.mark.long
class TestHuber(LossContract):
    config = {"kind": "huber", "delta": 0.5}


class TestMlp(ModelContract):
    config = {"kind": "mlp", "hidden": [4], "out_features": {"y": 2}, "dropout": 0.1}


class TestDigits(DatasetContract):
    config = {"kind": "digits", "split": "test"}
    spec = IMAGES


class TestTerrain(DatasetContract):
    config = {"kind": "terrain"}
    spec = {
        "trainer": {
            "forward_properties": ["coords"],
            "target_properties": ["elevation_target"],
            "field_weights": {"y": None, "elevation": 1.0},
            "effective_batch_size": 4096,
            "max_updates": 2,
        },
        "model": {"out_features": {"y": None, "elevation": 1}},
    }


class OfTinyFiles(DatasetContract):
    """Data sets in a file of the tiny problem, in the folder of the test."""

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.savez("tiny.npz", x=np.arange(72.0, dtype="float32").reshape(24, 3), y_target=np.ones((24, 2), "float32"))

    def place(self, config: dict[str, Any]) -> dict[str, Any]:
        from pathlib import Path

        return super().place({**config, "path": str(Path("tiny.npz").absolute())})


class TestFile(OfTinyFiles):
    config = "file"


class TestPad(CollatorContract):
    config = {"kind": "pad", "properties": ["x"]}


@pytest.mark.long
class TestStack(CollatorContract):
    config = "stack"


class TestNormalize(TransformContract):
    config = {"kind": "normalize", "properties": ["x", "y_target"]}


class TestWeightedLoss(TrainerContract):
    config = {"kind": "weighted-loss"}


class TestNoop(TrackerContract):
    config = "noop"


def contract_of(base: type, kind: str, options: dict[str, Any]) -> type:
    """Return the test class of one kind."""
    name = f"Test{kind.title().replace('-', '')}"
    marks = [] if kind in IN_EVERY_CHECK else [pytest.mark.long]
    return type(name, (base,), {"config": {"kind": kind, **options}, "__module__": __name__, "pytestmark": marks})


IN_EVERY_CHECK = {"Adam", "cosine"}
OPTIMIZERS = {"SGD": {"lr": 0.05}, "Adam": {"lr": 0.01}, "RMSprop": {"lr": 0.01}, "NAdam": {"lr": 0.01}}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {},
    "linear-warmup-cosine-decay": {"warmup_updates": 3},
    "step": {"every_updates": 4},
}
for kind, options in OPTIMIZERS.items():
    globals()[f"Test{kind}"] = contract_of(OptimizerContract, kind, options)
for kind, options in SCHEDULES.items():
    globals()[f"Test{kind.title().replace('-', '')}"] = contract_of(ScheduleContract, kind, options)
