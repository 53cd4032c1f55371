"""Data sets, transforms and collators built from their configs; the data container of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from noether.config.base import component_of
from noether.config.components import CollatorBaseConfig, DatasetBaseConfig, TransformBaseConfig
from noether.config.signature import SignatureConfig, build_component
from noether.data.collators import Collator, stack
from noether.data.container import DataContainer
from noether.data.dataset import AnyDataset
from noether.data.fetch import usable
from noether.data.splits import require_one_split
from noether.data.transforms import Transform
from noether.errors import placed
from noether.spec.model import LoaderTable


def build_data(
    datasets: Mapping[str, DatasetBaseConfig],
    transforms: Sequence[TransformBaseConfig] = (),
    loader: LoaderTable | None = None,
    *,
    seed: int = 0,
    samples: Mapping[str, AnyDataset] | None = None,
) -> DataContainer:
    """Return the data of a run.

    Args:
        datasets: Configs by key.
        transforms: Configs of the transforms of every data set.
        loader: Options of the loader; None for the defaults, which load in the training process.
        seed: Seed of the run; data sets and transforms whose constructors take a keyword `seed` are given it.
        samples: Data sets instead of those of the configs, which give the transforms alone then.

    Raises:
        DataError: if a data set cannot be built.
    """
    loader = loader or LoaderTable()
    if samples is None:
        require_one_split(dict(_with_parts(datasets)))
        samples = {}
        for key, config in datasets.items():
            with usable(key, loader.timeout):
                samples[key] = build_dataset(config, seed=seed)
    return DataContainer(
        samples,
        seed=seed,
        transforms=_transforms(transforms, seed),
        own_transforms={key: _transforms(config.transforms, seed, "datasets", key) for key, config in datasets.items()},
        collators={
            key: collator
            for key, config in datasets.items()
            if (collator := build_collator(config.collate)) is not stack
        },
        **loader.model_dump(),
    )


def _with_parts(datasets: Mapping[str, DatasetBaseConfig]) -> Iterator[tuple[str, DatasetBaseConfig]]:
    """Yield each data set, and the parts of those that are made of several."""
    for key, config in datasets.items():
        yield key, config
        parts = getattr(config, "parts", ())
        if isinstance(parts, list):
            yield from _with_parts({f"{key}.parts[{place}]": part for place, part in enumerate(parts)})


def _transforms(configs: Sequence[TransformBaseConfig], seed: int, *path: str) -> list[Transform]:
    built = []
    for index, config in enumerate(configs):
        with placed(*path, "transforms", index):
            built.append(build_transform(config, seed=seed))
    return built


def build_dataset(config: DatasetBaseConfig, *, seed: int = 0) -> AnyDataset:
    """Return the data set of `config`, without its transforms."""
    return build_component(config, seed=seed)  # type: ignore[no-any-return]  # its kind says what it is


def build_transform(config: TransformBaseConfig, *, seed: int = 0) -> Transform:
    """Return the transform of `config`."""
    return build_component(config, seed=seed)  # type: ignore[no-any-return]  # as above


def build_collator(config: CollatorBaseConfig | None) -> Collator:
    """Return the function of `config` with its options; `stack` without a config."""
    if not isinstance(config, CollatorBaseConfig):  # a data set may have an option of this name
        return stack
    options: dict[str, Any] = config.arguments() if isinstance(config, SignatureConfig) else {}
    target: Collator = component_of(config).target
    return partial(target, **options) if options else target
