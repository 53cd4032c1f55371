"""Build a DataContainer from the configs of a spec."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from noether.config.base import component_of, construction_of
from noether.config.components import DatasetBaseConfig, TransformBaseConfig
from noether.config.signature import SignatureConfig
from noether.data.container import DataContainer
from noether.data.dataset import AnyDataset
from noether.data.transforms.base import Transform


class LoaderOptions(Protocol):
    """Options of `[loader]` in a spec."""

    @property
    def num_workers(self) -> int:
        """Processes that load batches."""
        ...

    @property
    def prefetch_factor(self) -> int | None:
        """Batches that each worker prepares ahead."""
        ...

    @property
    def pin_memory(self) -> bool | None:
        """True to put batches in page-locked memory; None for CUDA devices only."""
        ...

    @property
    def start_method(self) -> str | None:
        """Start method of worker processes."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds after which a worker that delivers nothing is an error."""
        ...


def build_data(
    datasets: Mapping[str, DatasetBaseConfig],
    transforms: Sequence[TransformBaseConfig] = (),
    loader: LoaderOptions | None = None,
    *,
    seed: int = 0,
) -> DataContainer:
    """Return the data of a run.

    Args:
        datasets: Configs by key.
        transforms: Configs of the transforms of every data set.
        loader: Options of worker processes; None loads in the training process.
        seed: Seed of the run; data sets and transforms whose constructors take a keyword `seed` are given it.

    Raises:
        DataError: If a data set cannot be built.
    """
    return DataContainer(
        {key: build_dataset(config, seed=seed) for key, config in datasets.items()},
        num_workers=loader.num_workers if loader else 0,
        prefetch_factor=loader.prefetch_factor if loader else None,
        pin_memory=loader.pin_memory if loader else None,
        start_method=loader.start_method if loader else None,
        timeout=loader.timeout if loader else None,
        seed=seed,
        transforms=[build_transform(config, seed=seed) for config in transforms],
        own_transforms={
            key: [build_transform(own, seed=seed) for own in config.transforms] for key, config in datasets.items()
        },
    )


def build_dataset(config: DatasetBaseConfig, *, seed: int = 0) -> AnyDataset:
    """Return the data set of `config`, without its transforms."""
    dataset: AnyDataset = _construct(config, seed)
    return dataset


def build_transform(config: TransformBaseConfig, *, seed: int = 0) -> Transform:
    """Return the transform of `config`."""
    transform: Transform = _construct(config, seed)
    return transform


def _construct(config: DatasetBaseConfig | TransformBaseConfig, seed: int) -> Any:
    target = component_of(config).target
    with construction_of(config):
        if isinstance(config, SignatureConfig):
            return target(**config.arguments())
        parameter = inspect.signature(target).parameters.get("seed")
        return target(config) if parameter is None else target(config, seed=seed)
