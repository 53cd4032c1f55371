"""Fetch and collate batches of one data set; generators of its own draw the same numbers in every process."""

from __future__ import annotations

import copy
import random
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from types import CellType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from noether.data.collators import Collator, first_of, named_parts, stack
from noether.data.dataset import AnyDataset, Batch, GatheringDataset, called, gathering, length_of
from noether.data.randomness import EVALUATION_EPOCH, epoch_key, mix, preserved_rng, seed_sample
from noether.errors import DataError, NoetherError, TrainingError, notes_of, placed, text_of
from noether.kernel.participant import not_by_a_hook, note
from noether.kernel.progress import EarlyStopIteration
from noether.kernel.watchdog import Overdue, has_progressed, in_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WITH_A_MEANING = (StopIteration, StopAsyncIteration, EarlyStopIteration, SystemExit, GeneratorExit)
"""Exceptions that end a loop, a run or a process without an error if they leave the code that raised them."""


READING_TIMEOUT = 600.0
"""Seconds that loading a sample may take outside of a loader, as those of a loader for a batch."""


class Fetch(Protocol):
    """Loads batches of one data set."""

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` (int64, shape (batch,)) as they are in epoch `epoch`."""
        ...


class FetchBatch:
    """Fetch whole batches of a deterministic data set."""

    def __init__(self, dataset: GatheringDataset, name: str = "") -> None:
        self.dataset = dataset
        self.name = name

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` as they are in epoch `epoch`."""
        try:
            return self.dataset.__getitems__(indices)
        except BaseException as error:
            explain(error, f"while loading samples {_shown(indices)} of {self.name}")
            raise


class FetchSamples:
    """Fetch sample by sample; if the data set is random, each sample with its own seed.

    Args:
        dataset: The data set.
        collator: Makes batches of samples.
        name: Name of the data set in messages.
        seed: Seed of the run; None for a deterministic data set.
    """

    def __init__(self, dataset: AnyDataset, collator: Collator, name: str = "", seed: int | None = None) -> None:
        self.dataset = dataset
        self.collator = collator
        self.name = name
        self.seed = seed
        self._generators: list[Any] | None = None
        self._is_checked = False

    def __call__(self, indices: Tensor, epoch: int) -> Batch:
        """Return the samples at `indices` as they are in epoch `epoch`."""
        if self.seed is None:
            return self._collated([self._sample(index) for index in indices.tolist()], indices)
        key = epoch_key(self.seed, epoch)
        if self._generators is None:  # found in each worker for itself, which has copies of them
            self._generators = private_generators(self.dataset)
        with preserved_rng(), preserved(self._generators):
            samples = []
            for index in indices.tolist():
                seed_sample(mix(key, index))
                seed_generators(self._generators, mix(key, index))
                samples.append(self._sample(index))
            return self._collated(samples, indices)

    def _sample(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except BaseException as error:
            explain(error, f"while loading sample {index} of {self.name}")
            raise

    def _collated(self, samples: list[Any], indices: Tensor) -> Batch:
        if not self._is_checked and len(samples) > 1:
            self._require_own_memory(samples, indices)
        try:
            batch: Batch = self.collator(samples)
        except BaseException as error:
            explain(error, f"while making a batch of samples {_shown(indices)} of {self.name}")
            raise
        return batch

    def _require_own_memory(self, samples: list[Any], indices: Tensor) -> None:
        """Check that loading a sample leaves those before it as they are; a part that is common to all is fine.

        Raises:
            DataError: if the data set returns one buffer for all samples, and writes to it.
        """
        one, other = indices[:2].tolist()
        self._is_checked = one != other
        if not _places(samples[0]) & _places(samples[1]):
            return
        sample = self._sample(one)
        before = {name: copy.copy(value) for name, value in _arrays(sample).items()}
        self._sample(other)
        for name, value in _arrays(sample).items():
            if name in before and not np.array_equal(value, before[name], equal_nan=value.dtype.kind in "fc"):
                raise DataError(
                    f"samples of {self.name} overwrite each other: loading sample {other} has changed {name!r} of "
                    f"sample {one}, expected samples with memory of their own",
                    hint="return copies from __getitem__, for example buffer.clone()",
                )


def _arrays(sample: Any) -> dict[str, NDArray[Any]]:
    """Return the tensors and arrays of numbers in a sample by name, as arrays that share its memory."""
    found = {}
    for name, value in (named_parts(sample) or {}).items():
        if isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu":
            with suppress(TypeError, RuntimeError):  # of a type that numpy lacks, or of no numbers
                found[name] = value.detach().numpy()
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            found[name] = value
    return found


def _places(sample: Any) -> set[int]:
    """Return the addresses of the arrays in a sample, and its own if it may be changed."""
    own = {id(sample)} if isinstance(sample, MutableMapping) else set()
    return own | {array.ctypes.data for array in _arrays(sample).values() if array.size}


def explain(error: BaseException, where: str) -> None:
    """Note the place of an error of user code in the data, and that no callback is to blame for it.

    Raises:
        TrainingError: in place of an exception that would end a loop, the run or the process without an error; in a
            worker, which gets no Ctrl-C, in place of any that is not an `Exception`.
    """
    ends_silently = isinstance(error, _WITH_A_MEANING) or (
        not isinstance(error, Exception) and torch.utils.data.get_worker_info() is not None
    )
    if not ends_silently:
        note(not_by_a_hook(error), where)
        return
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = f": {text_of(error)}" if text_of(error) else ""
    raise not_by_a_hook(
        TrainingError(
            f"{type(error).__name__} {where}{said} ({frame.filename}:{frame.lineno})",
            hint="raise an exception that stands for an error; this one ends a loop or a program",
        )
    ) from error


def _shown(indices: Tensor, most: int = 8) -> str:
    return ", ".join(map(str, indices[:most].tolist())) + (", …" if len(indices) > most else "")


def fetch_of(dataset: AnyDataset, seed: int, collator: Collator | None = None, *, key: str = "") -> Fetch:
    """Return the fastest way to load batches of `dataset` that keeps its samples reproducible.

    Args:
        dataset: The data set.
        seed: Seed of the run.
        collator: Makes batches of samples; None for `stack`, which is not needed if the data set gathers batches.
        key: Key of the data set in messages; empty if it has none.
    """
    name = f"the data set '{key}' ({called(dataset)})" if key else called(dataset)
    if not getattr(dataset, "deterministic", False):
        return FetchSamples(dataset, collator or stack, name, seed)
    if collator is None and (whole := gathering(dataset)) is not None:
        return FetchBatch(whole, name)
    return FetchSamples(dataset, collator or stack, name)


_MOST_BYTES = 64 << 20
"""Bytes of a batch of `whole_batches`: statistics need several times as many."""


def whole_batches(dataset: AnyDataset, *, batch_size: int = 1024, seed: int = 0) -> Iterator[Batch]:
    """Yield every sample once, in order, in batches; random samples are the same at every call.

    A batch of large samples has fewer of them, so that memory is bounded. A data set that gathers no batches is read
    one sample at a time, so that the samples may differ in shape.
    """
    fetch, length = fetch_of(dataset, seed), length_of(dataset)
    size = 1
    if length and gathering(dataset) is not None:
        first = fetch(torch.arange(1), EVALUATION_EPOCH)
        held = sum(value.nbytes for value in first.values() if isinstance(value, Tensor))
        size = max(1, min(batch_size, _MOST_BYTES // max(1, held)))
    for start in range(0, length, size):
        has_progressed()
        yield fetch(torch.arange(start, min(start + size, length)), EVALUATION_EPOCH)


def first_batch(
    dataset: AnyDataset, samples: int = 1, *, seed: int = 0, collator: Collator | None = None, key: str = ""
) -> Batch:
    """Return a batch of the first samples; does not draw from the generators of the process.

    Raises:
        DataError: if the data set is empty.
    """
    length = length_of(dataset)
    if not length:
        raise DataError(f"the data set {key or called(dataset)} is empty: found 0 samples, expected at least 1")
    return fetch_of(dataset, seed, collator, key=key)(torch.arange(min(samples, length)), EVALUATION_EPOCH)


def first_sample(
    dataset: AnyDataset, *, seed: int = 0, collator: Collator | None = None, key: str = ""
) -> dict[str, Any]:
    """Return the first sample as it is in a batch, to read names and shapes from; arguments are those of `first_batch`.

    Raises:
        DataError: if the data set is empty.
    """
    return first_of(first_batch(dataset, seed=seed, collator=collator, key=key))


@contextmanager
def usable(key: str, timeout: float | None = None) -> Iterator[None]:
    """Name the data set in errors that its code raises outside of the batches of a loader.

    Args:
        key: Key of the data set.
        timeout: Seconds that it may take to load a sample, or to be built; None for `READING_TIMEOUT`.

    Raises:
        DataError: if the code raised an error that is not one of Noether's, or took too long.
    """

    def too_slow(error: Overdue) -> DataError:
        hint = "the stack of every thread is above; raise `timeout` under [loader] if the data are that slow"
        place = " ".join([f"reading the data set '{key}' takes too long", *notes_of(error)])
        return DataError(f"{place}: {error}", hint=hint)

    with placed("datasets", key), in_time(timeout or READING_TIMEOUT, too_slow):
        try:
            yield
        except NoetherError:
            raise
        except (Exception, SystemExit) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = " ".join([type(error).__name__, *notes_of(error)])
            raise DataError(
                f"the data set '{key}' cannot be used: {place}: {text_of(error)} ({last.filename}:{last.lineno})"
            ) from error


_PRIVATE = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
_NOT_SEARCHED = (type, ModuleType, torch.Tensor, np.ndarray, str, bytes, int, float)
_MOST_OBJECTS = 10_000  # bounds the search in a data set that holds its samples as Python objects


def private_generators(holder: object) -> list[Any]:
    """Return the random generators that an object holds: in attributes, containers and closures, or in its module.

    Copies of a generator in several workers would draw the same numbers for different samples.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [holder]
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _NOT_SEARCHED):
            continue
        seen.add(id(value))
        if isinstance(value, _PRIVATE):
            found.append(value)
        else:
            waiting += _parts(value)
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(islice(value.values(), _MOST_OBJECTS))
    if isinstance(value, list | tuple):
        return list(value[:_MOST_OBJECTS])
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return [*map(_content, value.__closure__ or ()), *_of_module(value.__globals__)]
    parts = list(getattr(value, "__dict__", {}).values())
    return parts + _of_module(vars(sys.modules.get(type(value).__module__, object)))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _of_module(names: Mapping[str, Any]) -> list[Any]:
    return [value for value in names.values() if isinstance(value, _PRIVATE)]


def seed_generators(generators: Sequence[Any], seed: int) -> None:
    """Put each generator at the start of its stream of a sample.

    Args:
        generators: The generators, as `private_generators` finds them.
        seed: Seed of the sample.
    """
    for place, generator in enumerate(generators):
        own = mix(seed, place)
        if isinstance(generator, np.random.Generator):
            bits = generator.bit_generator
            bits.state = type(bits)(own).state
        elif isinstance(generator, torch.Generator):
            generator.manual_seed(own)
        else:
            generator.seed(own if isinstance(generator, random.Random) else own & 0xFFFFFFFF)


@contextmanager
def preserved(generators: Sequence[Any]) -> Iterator[None]:
    """Restore generators at the end of the block, since other code may share them with a data set."""
    states = [_state(generator) for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            _restore(generator, state)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
