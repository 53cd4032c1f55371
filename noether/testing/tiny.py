"""A tiny problem: its data set, and the spec that contracts and the pytest plugin run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from noether.config.components import DatasetBaseConfig
from noether.data.dataset import InMemoryDataset

SAMPLES, TEST_SAMPLES, BATCH = 24, 10, 4
"""An epoch has six updates of four samples."""


class TinyDataConfig(DatasetBaseConfig):
    """Settings of the tiny data set."""

    part: Literal["train", "test"] = Field("train", description="The 24 samples to train on, or 10 others.")


class TinyData(InMemoryDataset):
    """`x` of shape (3,), and `y_target` of shape (2,), a linear map of `x`.

    Args:
        dataset_config: The part of the samples.
    """

    @classmethod
    def known_properties(cls, config: TinyDataConfig) -> tuple[str, ...]:
        """Return the properties of every sample."""
        return ("x", "y_target")

    def __init__(self, dataset_config: TinyDataConfig) -> None:
        super().__init__(tiny_samples()[dataset_config.part], dataset_config)


def tiny_samples(
    samples: int = SAMPLES, test_samples: int = TEST_SAMPLES, seed: int = 0
) -> dict[str, dict[str, torch.Tensor]]:
    """Return the properties of both parts: `x` of shape (samples, 3), `y_target` of shape (samples, 2)."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.randn(3, 2, generator=generator)
    parts = {}
    for part, size in (("train", samples), ("test", test_samples)):
        x = torch.randn(size, 3, generator=generator)
        parts[part] = {"x": x, "y_target": x @ slope}
    return parts


def tiny_spec(**tables: Any) -> dict[str, Any]:
    """Return a spec of twelve updates, two epochs, of an `mlp` with one hidden layer of four units.

    Args:
        **tables: Tables to change key by key, `trainer={"max_updates": 3}`; None removes a key.
    """
    data = "noether.testing.tiny.TinyData"
    spec: dict[str, Any] = {
        "spec": 1,
        "name": "tiny",
        "seed": 0,
        "threads": 1,
        "datasets": {"train": {"kind": data}, "test": {"kind": data, "part": "test"}},
        "model": {
            "kind": "mlp",
            "hidden": [4],
            "out_features": {"y": 2},
            "optimizer": {"kind": "AdamW", "lr": 0.01},
        },
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": 12,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
        },
        "trackers": [{"kind": "noop"}],
    }
    return merged(spec, tables)


def merged(*specs: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables as one, key by key; the later ones count, and None removes a key."""
    result: dict[str, Any] = {}
    for spec in specs:
        for key, value in spec.items():
            below = result.get(key)
            is_table = isinstance(value, Mapping)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value) if is_table else value
    return {key: value for key, value in result.items() if value is not None}
