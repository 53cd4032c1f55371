"""DataContainer: the run's data sets by key, built from a spec, and the loader over all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from multiprocessing import get_all_start_methods
from typing import Any, cast

import torch
from torch import Tensor

from noether.config.components import SamplingTable
from noether.data.collators import Collator
from noether.data.dataset import AnyDataset, Batch, length_of, shuffle_block
from noether.data.fetch import Fetch, fetch_of, first_batch, first_sample, usable
from noether.data.loader import TaggedDataset, TrainingLoader, refuse_import_by_worker
from noether.data.samplers import TRAINING, InterleavedSampler, SamplerIntervalConfig, TrainingOrder
from noether.data.sampling import mixture_of, order_of
from noether.data.staging import Residence, Wanted, free_memory, on_device, require_resident, residence
from noether.data.transforms import Transform
from noether.data.views import PreparedDatasets, subset
from noether.errors import DataError
from noether.kernel.names import did_you_mean
from noether.metrics.device import device_of

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
        limit_batches: Most updates of an epoch, and most batches of a pass; None for all.
        overfit_one_batch: Train on the first batch again and again.
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
        limit_batches: int | None = None,
        overfit_one_batch: bool = False,
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
        self.limit_batches, self.overfit_one_batch = limit_batches, overfit_one_batch
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

    def before_transforms(self, key: str) -> AnyDataset:
        """Return a data set as it is before its transforms."""
        return self._prepared.datasets[self._known(key)]

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
            limit_batches=self.limit_batches,
        )

    @property
    def epoch_limit(self) -> int | None:
        """Most updates of an epoch; None for all."""
        return 1 if self.overfit_one_batch else self.limit_batches

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
        sampling: SamplingTable | None = None,
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
            sampling: Order of training other than each sample once; None for that, or for that of a mixture.

        Raises:
            DataError: if the training set is missing or smaller than one effective batch, or batch sizes do not divide.
        """
        where = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
        order = None
        if not evaluation:
            with usable("train", self.timeout):
                drawn = order_of(sampling, self._prepared.datasets[self._known("train")], self.seed, shuffle=shuffle)
            order = TrainingOrder(
                self.samples_per_epoch,
                effective_batch_size or batch_size * world_size,
                **where,
                seed=self.seed if seed is None else seed,
                shuffle=shuffle,
                drop_last=drop_last,
                block=shuffle_block(self.train),
                limit=self.limit_batches,
                repeats=self.overfit_one_batch,
                sampling=drawn,
            )
        sampler = InterleavedSampler(
            order, consumers, **where, start_update=start_update, end_update=end_update, repeat_round=repeat_round
        )
        return self._loader(sampler, device)

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch of training: those of the training set once, or the length that a mixture has."""
        mixture = mixture_of(self._prepared.datasets["train"]) if "train" in self.keys() else None  # not a mapping
        return length_of(self.train) if mixture is None else mixture.length

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
