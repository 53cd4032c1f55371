"""Random schedules of training and evaluation in one stream, against separate passes over separate data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noether.data.container import DataContainer
from noether.data.dataset import Batch, Dataset
from noether.data.loader import evaluation_pass
from noether.data.samplers import TRAINING, SamplerIntervalConfig, TaggedBatch


class Noisy(Dataset):
    """Numbered samples with noise of their own; `first` is the number of the first one."""

    def __init__(self, first: int, size: int) -> None:
        super().__init__()
        self.first, self.size = first, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor(self.first + index), "noise": torch.rand(2)}


@dataclass(frozen=True)
class Reader:
    """A consumer, and how many batches it reads of each pass (None for all) before it stops or raises."""

    key: str
    intervals: dict[str, int]
    batch_size: int | None
    max_size: int | None
    properties: list[str] | None
    reads: int | None
    raises: bool

    def fires_after_update(self, update: int, effective: int) -> bool:
        n = self.intervals.get("every_n_samples")
        seen = range((update - 1) * effective + 1, update * effective + 1)
        by_sample = n is not None and any(sample % n == 0 for sample in seen)
        return by_sample or update % self.intervals.get("every_n_updates", update + 1) == 0

    def fires_after_epoch(self, epoch: int) -> bool:
        return epoch % self.intervals.get("every_n_epochs", epoch + 1) == 0

    def request(self, data: DataContainer) -> SamplerIntervalConfig:
        asked: dict[str, Any] = {"properties": self.properties, "max_size": self.max_size}
        return data.sampler_config(self.key, batch_size=self.batch_size, **asked, **self.intervals)


@dataclass(frozen=True)
class Run:
    """A training run with readers in between."""

    sizes: dict[str, int]
    batch_size: int
    steps: int
    start: int
    updates: int
    readers: list[Reader]

    @property
    def effective(self) -> int:
        return self.batch_size * self.steps

    def data(self, num_workers: int = 0) -> DataContainer:
        sets = {key: Noisy(1000 * place, size) for place, (key, size) in enumerate(self.sizes.items())}
        return DataContainer(sets, seed=7, num_workers=num_workers)

    def stream(self, data: DataContainer, requests: list[SamplerIntervalConfig]) -> Iterator[TaggedBatch]:
        start, end = self.start, self.start + self.updates
        sizes = {"batch_size": self.batch_size, "effective_batch_size": self.effective}
        return iter(data.build_loader(requests, **sizes, start_update=start, end_update=end))

    def readings(self) -> Iterator[tuple[int, list[Reader]]]:
        """Yield each update and who reads after it, in order."""
        for update in range(self.start + 1, self.start + self.updates + 1):
            epoch, rest = divmod(update, self.sizes["train"] // self.effective)
            after_update = [one for one in self.readers if one.fires_after_update(update, self.effective)]
            after_epoch = [one for one in self.readers if not rest and one.fires_after_epoch(epoch)]
            yield update, after_update + after_epoch


@st.composite
def readers(draw: st.DrawFn) -> Reader:
    units = st.sampled_from(["every_n_epochs", "every_n_updates", "every_n_samples"])
    reads = draw(st.none() | st.integers(0, 2))
    return Reader(
        draw(st.sampled_from(["train", "test", "val"])),
        draw(st.dictionaries(units, st.integers(1, 7), min_size=1)),
        draw(st.none() | st.integers(1, 5)),
        draw(st.none() | st.integers(1, 12)),
        draw(st.sampled_from([None, ["number"], ["noise", "number"]])),
        reads,
        raises=reads is not None and draw(st.booleans()),
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    batch_size, steps = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = {"train": draw(st.integers(batch_size * steps, 16))}
    sizes |= {key: draw(st.integers(1, 9)) for key in ("test", "val")}
    start, updates = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    return Run(sizes, batch_size, steps, start, updates, draw(st.lists(readers(), max_size=4)))


def read(batches: Iterator[Batch], reader: Reader) -> list[Batch]:
    """Read as far as the reader does; if it raises, it does so while it holds a batch."""
    found: list[Batch] = []
    try:
        while reader.reads is None or len(found) < reader.reads:
            found.append(next(batches))
        if reader.raises:
            raise ZeroDivisionError
    except (StopIteration, ZeroDivisionError):
        pass
    return found


def trained(run: Run, num_workers: int = 0) -> tuple[list[Batch], list[list[Batch]]]:
    """Return the training batches and the results of each reading, in the order of a training loop."""
    data = run.data(num_workers)
    requests = {id(reader): reader.request(data) for reader in run.readers}
    stream = run.stream(data, list(requests.values()))
    training = (batch for tag, _, batch in stream if tag == TRAINING)
    steps, passes = [], []
    for _, due in run.readings():
        steps += [next(training) for _ in range(run.steps)]
        passes += [read(evaluation_pass(stream, requests[id(one)], run.batch_size), one) for one in due]
    assert next(training, None) is None
    return steps, passes


def alone(run: Run, reader: Reader) -> list[Batch]:
    """Return the batches of a separate loader for the reader."""
    data = run.data()
    loader = data.build_loader([reader.request(data)], batch_size=run.batch_size, evaluation=True)
    return [found.batch for found in loader][: reader.reads]


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert [list(batch) for batch in found] == [list(batch) for batch in expected]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


@settings(max_examples=40)
@given(runs())
def test_every_reader_sees_what_a_loader_of_its_own_would_give_it(run: Run) -> None:
    _, passes = trained(run)
    expected = [alone(run, reader) for _, due in run.readings() for reader in due]
    assert len(passes) == len(expected)
    for found, wanted in zip(passes, expected, strict=True):
        assert_equal(found, wanted)


@settings(max_examples=40)
@given(runs())
def test_a_whole_pass_is_the_first_samples_in_order_with_the_asked_properties(run: Run) -> None:
    _, passes = trained(run)
    read_by = [reader for _, due in run.readings() for reader in due]
    for reader, found in zip(read_by, passes, strict=True):
        if reader.reads is not None:
            continue
        size, place = run.sizes[reader.key], list(run.sizes).index(reader.key)
        numbers = [int(number) for batch in found for number in batch["number"]]
        assert numbers == [1000 * place + i for i in range(min(size, reader.max_size or size))]
        assert all(set(batch) == set(reader.properties or ["number", "noise"]) for batch in found)


@settings(max_examples=40)
@given(runs())
def test_evaluation_never_changes_a_training_batch(run: Run) -> None:
    watched, _ = trained(run)
    data = run.data()
    assert_equal(watched, [found.batch for found in run.stream(data, [])])
    assert len(watched) == run.updates * run.steps


@settings(max_examples=40)
@given(runs())
def test_an_epoch_sees_no_sample_twice(run: Run) -> None:
    watched, _ = trained(run)
    per_epoch = run.sizes["train"] // run.effective * run.steps
    first = -(run.start * run.steps) % per_epoch  # batches that are left of the epoch in which it starts
    for begin in [0, *range(first, len(watched), per_epoch)]:
        end = first if begin == 0 and first else begin + per_epoch
        numbers = [int(number) for batch in watched[begin:end] for number in batch["number"]]
        assert len(set(numbers)) == len(numbers)


@settings(max_examples=40)
@given(runs())
def test_every_batch_carries_the_tag_of_whom_it_is_for(run: Run) -> None:
    data = run.data()
    requests = [reader.request(data) for reader in run.readers]
    tags: list[int] = []
    for _, due in run.readings():
        tags += [TRAINING] * run.steps
        for reader in due:
            request = requests[next(i for i, one in enumerate(run.readers) if one is reader)]
            tags += [request.tag] * request.pass_length(run.batch_size)
    assert [found.tag for found in run.stream(data, requests)] == tags


@settings(max_examples=8)
@given(runs())
def test_two_workers_bring_every_reader_the_same_bits(run: Run) -> None:
    alone, shared = trained(run), trained(run, num_workers=2)
    assert_equal(shared[0], alone[0])
    for found, expected in zip(shared[1], alone[1], strict=True):
        assert_equal(found, expected)
