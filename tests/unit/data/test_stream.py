"""Readers of one stream get their own batches, independent of other readers."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from noether.data.container import DataContainer
from noether.data.dataset import InMemoryDataset
from noether.data.loader import evaluation_pass
from noether.data.samplers import TRAINING, SamplerIntervalConfig, TaggedBatch
from noether.errors import TrainingError


@pytest.fixture
def data() -> DataContainer:
    train = InMemoryDataset({"x": torch.arange(8)})
    test = InMemoryDataset({"x": torch.arange(100, 105)})
    return DataContainer({"train": train, "test": test})


def every_update(data: DataContainer) -> SamplerIntervalConfig:
    return data.sampler_config("test", every_n_updates=1)


def stream_of(data: DataContainer, *requests: SamplerIntervalConfig) -> Iterator[TaggedBatch]:
    return iter(data.build_loader(requests, batch_size=2, end_update=2))


def training_batches(stream: Iterator[TaggedBatch]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield training batches as an update takes them; passes that are not read are skipped."""
    return (batch for tag, _, batch in stream if tag == TRAINING)


def values(batches: Iterator[dict[str, torch.Tensor]]) -> list[int]:
    return [int(value) for batch in batches for value in batch["x"]]


def test_training_and_evaluation_take_turns(data: DataContainer) -> None:
    request = every_update(data)
    stream = stream_of(data, request)
    seen = []
    for batch in training_batches(stream):
        seen += batch["x"].tolist()
        assert values(evaluation_pass(stream, request, 2)) == [100, 101, 102, 103, 104]
    assert len(set(seen)) == 4
    assert max(seen) < 8


def test_training_skips_the_rest_of_an_unfinished_pass(data: DataContainer) -> None:
    request = every_update(data)
    stream = stream_of(data, request)
    training = training_batches(stream)
    next(training)
    next(evaluation_pass(stream, request, 2))
    assert next(training)["x"].max() < 8


def test_a_consumer_skips_what_another_did_not_finish(data: DataContainer) -> None:
    failed, other = every_update(data), every_update(data)
    stream = stream_of(data, failed, other)
    next(training_batches(stream))
    next(evaluation_pass(stream, failed, 2))
    assert values(evaluation_pass(stream, other, 2)) == [100, 101, 102, 103, 104]


def test_a_second_pass_of_a_round_does_not_go_on_with_the_first(data: DataContainer) -> None:
    request = data.sampler_config("test", every_n_updates=1, every_n_epochs=1)
    stream = iter(data.build_loader([request], batch_size=2, effective_batch_size=8, end_update=1))
    list(itertools.islice(training_batches(stream), 4))
    next(evaluation_pass(stream, request, 2))
    assert values(evaluation_pass(stream, request, 2)) == [100, 101, 102, 103, 104]


def test_asking_outside_of_the_interval_is_an_error(data: DataContainer) -> None:
    request = data.sampler_config("test", every_n_updates=2)
    stream = stream_of(data, request)
    next(training_batches(stream))
    with pytest.raises(TrainingError):
        next(evaluation_pass(stream, request, 2))


def test_a_rank_without_samples_reads_nothing(data: DataContainer) -> None:
    request = data.sampler_config("test", every_n_updates=1, max_size=1)
    loader = data.build_loader([request], batch_size=2, rank=1, world_size=2, end_update=2)
    stream = iter(loader)
    training = training_batches(stream)
    next(training)
    assert values(evaluation_pass(stream, request, 2, rank=1, world_size=2)) == []
    next(training)
