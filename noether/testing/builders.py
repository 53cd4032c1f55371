"""A tiny problem with its spec, and builders of small real objects for tests, on the CPU and in one folder.

```python
def test_my_callback_logs_its_metric(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = make_callback({"kind": "x/mine", "every_n_epochs": 1}, trainer)
    callback.periodic_callback(interval_type="epoch", update_counter=make_counter(update=6))
    assert trainer.log_writer.current("mine") == 1.0
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, TypeAdapter

from noether.checkpoint.paths import PathProvider
from noether.config.components import CallBackBaseConfig, DatasetBaseConfig
from noether.config.discriminated import Discriminated
from noether.core.callbacks.base import CallbackBase
from noether.core.callbacks.tree import build_callback
from noether.core.models.base import ModelBase
from noether.core.models.mlp import MLP, MLPConfig
from noether.core.trackers import NoopTracker
from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.kernel.progress import TrainingIteration, UpdateCounter
from noether.training.trainers.base import BaseTrainer
from noether.training.trainers.weighted_loss import WeightedLossTrainer, WeightedLossTrainerConfig

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
    data = "noether.testing.builders.TinyData"
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


_CONFIG: TypeAdapter[CallBackBaseConfig] = TypeAdapter(Annotated[Any, Discriminated("callback")])


def make_data(*, samples: int = SAMPLES, test_samples: int = TEST_SAMPLES, seed: int = 0) -> DataContainer:
    """Return data sets `train` and `test`: `x` of shape (3,), and `y_target` of shape (2,), a linear map of `x`."""
    parts = tiny_samples(samples, test_samples, seed)
    return DataContainer({key: InMemoryDataset(properties) for key, properties in parts.items()}, seed=seed)


def make_model(*, seed: int = 0, **settings: Any) -> ModelBase:
    """Return an `mlp` from `x` to `y` with one hidden layer of four units and plain SGD.

    Args:
        seed: Seed of the weights; the global generator is not changed.
        **settings: Config fields to override.
    """
    table = {
        "kind": "mlp",
        "hidden": [4],
        "in_features": {"x": 3},
        "out_features": {"y": [2]},
        "optimizer": {"kind": "SGD", "lr": 0.1},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(MLPConfig.model_validate({**table, **settings}))


def make_trainer(folder: Path, *, data: DataContainer | None = None, **settings: Any) -> BaseTrainer:
    """Return a `weighted-loss` trainer of two epochs over `make_data()`, without default callbacks.

    Args:
        folder: Parent of the run folder `test-run`, such as a test's `tmp_path`.
        data: The data sets; `make_data()` by default.
        **settings: Config fields to override.
    """
    table: dict[str, Any] = {
        "kind": "weighted-loss",
        "effective_batch_size": BATCH,
        "forward_properties": ["x"],
        "target_properties": ["y_target"],
        "field_weights": {"y": 1.0},
        "add_default_callbacks": False,
    }
    if not {"max_epochs", "max_updates", "max_samples"} & settings.keys():
        table["max_epochs"] = 2
    paths = PathProvider(folder, "test-run")
    paths.run_path.mkdir(parents=True, exist_ok=True)
    return WeightedLossTrainer(
        WeightedLossTrainerConfig.model_validate({**table, **settings}),
        data_container=data or make_data(),
        device="cpu",
        tracker=NoopTracker(),
        path_provider=paths,
    )


def make_callback(
    config: CallBackBaseConfig | Mapping[str, Any], trainer: BaseTrainer, model: ModelBase | None = None
) -> Any:
    """Return the callback of `config`, built with the data, writers and tracker of `trainer`.

    Args:
        config: The config, or its table in a spec: `{"kind": "eta", "every_n_updates": 1}`.
        trainer: The trainer that it follows.
        model: The model; a new `make_model()` by default.
    """
    config = _CONFIG.validate_python(dict(config) if isinstance(config, Mapping) else config)
    callback: CallbackBase = build_callback(config, trainer.callback_default_kwargs(model or make_model()))
    callback.id = callback.id or config.kind
    return callback


def make_counter(
    *, update: int = 0, end_update: int = 100, updates_per_epoch: int = 6, effective_batch_size: int = BATCH
) -> UpdateCounter:
    """Return a counter at update `update` of a run of `end_update` updates."""
    now = TrainingIteration(update // updates_per_epoch, update, update * effective_batch_size)
    return UpdateCounter(now, TrainingIteration(update=end_update), updates_per_epoch, effective_batch_size)
