"""DataContainer: the run's data sets by key, built from a spec, and the loader over all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from multiprocessing import get_all_start_methods
from typing import Any, cast

import torch
from torch import Tensor

from noether.config.base import component_of
from noether.config.components import CollatorBaseConfig, DatasetBaseConfig, TransformBaseConfig
from noether.config.signature import SignatureConfig, build_component
from noether.data.collators import Collator, stack
from noether.data.dataset import AnyDataset, Batch, length_of, shuffle_block
from noether.data.fetch import Fetch, fetch_of, first_batch, first_sample, usable
from noether.data.loader import TaggedDataset, TrainingLoader, refuse_import_by_worker
from noether.data.samplers import TRAINING, InterleavedSampler, SamplerIntervalConfig, TrainingOrder
from noether.data.staging import Residence, Wanted, free_memory, on_device, require_resident, residence
from noether.data.transforms import Transform
from noether.data.views import PreparedDatasets, subset
from noether.errors import DataError, placed
from noether.kernel.names import did_you_mean
from noether.metrics.device import device_of
from noether.spec.model import LoaderTable

_Consumers = Iterable[SamplerIntervalConfig]


class DataContainer:
    """The data sets of a run, after their transforms, and loaders over them.

    Args:
        datasets: Data sets by key; training uses `train`.
        num_workers: Processes that load batches; 0 loads them in the training process.
        prefetch_factor: Batches that each worker prepares ahead; None for 4.
        pin_memory: Put batches in page-locked memory; None for CUDA devices only.
        start_method: Start method of worker processes: `fork`, `forkserver` or `spawn`; None for Python's default.
        timeout: Seconds after which a worker that delivers nothing is an error; None for 600.
        device_resident: Keep the data sets on the device and gather batches there: never, always, or if they fit.
        collators: Functions that make batches of samples, by key of the data set; others use the default.
        seed: Seed of the run, from which the order and every sample's randomness derive.
        transforms: Transforms of every data set, with statistics of `train`.
        own_transforms: Transforms of one data set by its key, applied before the shared ones.

    Raises:
        DataError: if this machine has no such start method.
        UsageError: if a new process imports the script that builds it.
    """

    def __init__(
        self,
        datasets: Mapping[str, AnyDataset],
        *,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool | None = None,
        start_method: str | None = None,
        timeout: float | None = None,
        device_resident: Wanted = False,
        collators: Mapping[str, Collator] | None = None,
        seed: int = 0,
        transforms: Sequence[Transform] = (),
        own_transforms: Mapping[str, Sequence[Transform]] | None = None,
    ) -> None:
        refuse_import_by_worker()
        if start_method not in (None, *(known := get_all_start_methods())):
            raise DataError(f"unknown start_method here: found {start_method!r}, expected one of {', '.join(known)}")
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.pin_memory = pin_memory
        self.start_method = start_method
        self.timeout = timeout
        self.device_resident = device_resident
        self._resident: dict[int, tuple[Tensor, Tensor]] = {}
        self.collators = dict(collators or {})
        self.seed = seed
        self._prepared = PreparedDatasets(datasets, transforms, own_transforms)

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the data sets, in the order of the spec."""
        return tuple(self._prepared.datasets)

    @property
    def train(self) -> AnyDataset:
        """The training set, after its transforms."""
        return self.get_dataset("train")

    @property
    def main(self) -> AnyDataset:
        """The training set; the first data set if there is none."""
        return self.get_dataset(self._main_key)

    @property
    def _main_key(self) -> str:
        return self._known("train" if "train" in self.keys() else None)  # not a mapping

    def get_dataset(
        self,
        key: str | None = None,
        *,
        properties: Collection[str] | None = None,
        max_size: int | None = None,
    ) -> AnyDataset:
        """Return a data set after its transforms.

        Args:
            key: Its key; None for the first one.
            properties: Properties to keep; None for all.
            max_size: Keep at most this many samples, the first ones; None for all.

        Raises:
            DataError: if there is no such data set, or it lacks a property.
        """
        key = self._known(key)
        with usable(key, self.timeout):
            return subset(self._prepared.get(key), properties=properties, max_size=max_size)

    def _known(self, key: str | None) -> str:
        keys = self.keys()
        if key is None and keys:
            return keys[0]
        if key not in keys:
            guess = did_you_mean(key or "", keys)
            raise DataError(
                f"unknown data set: found {key!r}, expected one of {', '.join(keys)}.{guess}"
                if keys
                else "the run has no data sets, expected at least one",
                hint=f"add [datasets.{key or 'train'}] to the spec",
            )
        return key

    def sampler_config(
        self,
        key: str | None = None,
        *,
        every_n_epochs: int | None = None,
        every_n_updates: int | None = None,
        every_n_samples: int | None = None,
        batch_size: int | None = None,
        properties: Collection[str] | None = None,
        max_size: int | None = None,
    ) -> SamplerIntervalConfig:
        """Return a request for passes over a data set, to be handed to `build_loader` and `evaluation_pass`.

        Arguments are those of `get_dataset` and of `SamplerIntervalConfig`.
        """
        return SamplerIntervalConfig(
            dataset=self.get_dataset(key, properties=properties, max_size=max_size),
            every_n_epochs=every_n_epochs,
            every_n_updates=every_n_updates,
            every_n_samples=every_n_samples,
            batch_size=batch_size,
            collator=self.collators.get(self._known(key)),
            key=self._known(key),
        )

    def first_batch(self, samples: int = 1) -> Batch:
        """Return the first samples of `main` as a batch, as training and evaluation get it.

        Raises:
            DataError: if the data set is empty, or its samples cannot be loaded.
        """
        return cast("Batch", self._first(first_batch, samples))

    def first_sample(self) -> dict[str, Any]:
        """Return the first sample of `main` by property, as it is in a batch, to read names and shapes from.

        Raises:
            DataError: if the data set is empty, or its samples cannot be loaded.
        """
        return cast("dict[str, Any]", self._first(first_sample))

    def _first(self, load: Callable[..., Any], *arguments: Any) -> Any:
        key = self._main_key
        with usable(key, self.timeout):
            return load(self.main, *arguments, seed=self.seed, collator=self.collators.get(key), key=key)

    def build_loader(
        self,
        consumers: Sequence[SamplerIntervalConfig] = (),
        *,
        batch_size: int,
        effective_batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        start_update: int = 0,
        end_update: int | None = None,
        repeat_round: bool = False,
        evaluation: bool = False,
        device: torch.device | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int | None = None,
    ) -> TrainingLoader:
        """Return the stream of training batches with the consumers' passes when their intervals fire.

        Args:
            consumers: Passes over data sets, at their intervals.
            batch_size: Samples in a forward pass on one rank, and in an evaluation batch without a size of its own.
            effective_batch_size: Samples in one update over all ranks; None for one batch on each rank.
            rank: Rank of this process.
            world_size: Number of ranks.
            start_update: Completed updates after which the stream begins.
            end_update: Completed updates after which the stream ends; None for never.
            repeat_round: Begin with the passes of `start_update`.
            evaluation: No training; each consumer's pass once, in order.
            device: Device of the batches.
            shuffle: See `TrainingOrder`.
            drop_last: See `TrainingOrder`.
            seed: Seed of the order; None for that of the run.

        Raises:
            DataError: if the training set is missing or smaller than one effective batch, or batch sizes do not divide.
        """
        order = None
        if not evaluation:
            order = TrainingOrder(
                length_of(self.train),
                effective_batch_size or batch_size * world_size,
                batch_size,
                self.seed if seed is None else seed,
                rank,
                world_size,
                shuffle=shuffle,
                drop_last=drop_last,
                block=shuffle_block(self.train),
            )
        sampler = InterleavedSampler(
            order,
            consumers,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            start_update=start_update,
            end_update=end_update,
            repeat_round=repeat_round,
        )
        return self._loader(sampler, device)

    def _sources(self, consumers: _Consumers, *, trains: bool) -> dict[int, Fetch]:
        """Return the way in which batches of each tag are loaded."""
        sources = {one.tag: fetch_of(one.dataset, self.seed, one.collator, key=one.key) for one in consumers}
        if trains:
            sources[TRAINING] = fetch_of(self.train, self.seed, self.collators.get("train"), key="train")
        return sources

    def residence(self, consumers: _Consumers, device: torch.device | None, *, trains: bool = True) -> Residence:
        """Return the size of the data sets of a loader, and the reason why they cannot stay on the device."""
        return residence(self._sources(consumers, trains=trains).values(), free_memory(device), self._resident)

    def _loader(self, sampler: InterleavedSampler, device: torch.device | None) -> TrainingLoader:
        """Return the loader of all batches that a sampler asks for."""
        trains = sampler.order is not None
        sources, workers = self._sources(sampler.consumers, trains=trains), self.num_workers
        pins = device is not None and device.type == "cuda" if self.pin_memory is None else self.pin_memory
        streams = device_of(device) if pins or self.device_resident else None
        if device is not None and streams is not None and self.device_resident:
            found = self.residence(sampler.consumers, device, trains=trains)
            if require_resident(found, self.device_resident if trains else "auto"):
                sources, workers = on_device(sources, device, self._resident), 0
        return TrainingLoader(
            TaggedDataset(sources),
            sampler,
            num_workers=workers,
            prefetch_factor=self.prefetch_factor,
            pin_memory=pins,
            start_method=self.start_method,
            timeout=self.timeout,
            device=streams,
        )

    def raw_properties(self) -> dict[str, dict[str, Any]]:
        """Return shape and type of each tensor in the first sample of `main` before its transforms."""
        with usable(self._main_key, self.timeout):
            return self._prepared.raw_properties(self._main_key, self.seed)

    def raw_sample(self) -> dict[str, Any]:
        """Return the first sample of `main` before its transforms."""
        with usable(self._main_key, self.timeout):
            return first_sample(self._prepared.datasets[self._main_key], seed=self.seed)

    def raw(self, key: str) -> AnyDataset:
        """Return a data set before its transforms."""
        return self._prepared.datasets[self._known(key)]

    def over(self, key: str, samples: AnyDataset) -> DataContainer:
        """Return a container of one data set: other samples in place of `key`, and the transforms as they are fitted.

        Args:
            key: Key of a data set of the run, whose own transforms the samples need.
            samples: The samples, before their transforms.
        """
        other = copy(self)
        other._prepared = PreparedDatasets({key: samples}, self._prepared.shared, self._prepared.own)
        return other

    def transforms(self, key: str) -> tuple[Transform, ...]:
        """Return the transforms of a data set: its own ones, then those of all data sets."""
        return self._prepared.transforms(key)

    def inverse(self, name: str, tensor: Tensor, key: str = "train") -> Tensor:
        """Return a property, or a prediction of it, in the units of a data set before its transforms.

        Args:
            name: The property, `pressure_target`; one that no transform changes is returned as it is.
            tensor: Its values, of shape (batch, ...).
            key: The data set.
        """
        return self._prepared.inverse(name, tensor, key)

    def in_units(self, name: str, tensor: Tensor, present: Collection[str] = ()) -> Tensor:
        """Return predictions or targets of a field, or a property, in the units of the training data.

        Args:
            name: The field, `pressure`, of which `pressure_target` is the property; or a property.
            tensor: Its values, of shape (batch, ...).
            present: The properties of a sample; unset: those of the training set.

        Raises:
            DataError: if there is no such property, or `name` is a field and another property as well.
        """
        present = present or self.first_sample()
        return self.inverse(self._prepared.property_of(name, present), tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the transforms, fitted on the training set."""
        return self._prepared.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of the transforms of another run, in place of fitting them.

        Raises:
            DataError: if the state does not fit the transforms.
        """
        self._prepared.load_state_dict(state)
        self._resident.clear()


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
