"""Training and evaluation in one sequence, against a loop that asks every consumer after every update."""

import pickle

import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.data.dataset import InMemoryDataset
from noether.data.samplers import TRAINING, InterleavedSampler, SamplerIntervalConfig, TaggedIndices, TrainingOrder


def numbers(n: int) -> InMemoryDataset:
    return InMemoryDataset({"x": torch.arange(n)})


interval = st.one_of(st.none(), st.integers(1, 7))
consumers = st.lists(
    st.builds(
        SamplerIntervalConfig,
        dataset=st.integers(1, 9).map(numbers),
        every_n_epochs=interval,
        every_n_updates=interval,
        every_n_samples=interval,
        batch_size=st.one_of(st.none(), st.integers(1, 4)),
    ),
    max_size=4,
)


def fires_after_update(consumer: SamplerIntervalConfig, update: int, effective: int) -> bool:
    by_update = consumer.every_n_updates and update % consumer.every_n_updates == 0
    n = consumer.every_n_samples
    by_sample = n and any(sample % n == 0 for sample in range((update - 1) * effective + 1, update * effective + 1))
    return bool(by_update or by_sample)


def passes(consumer: SamplerIntervalConfig, batch_size: int, rank: int, world_size: int) -> list[tuple[int, int]]:
    left = len(consumer.dataset) - rank  # type: ignore[arg-type]  # ours has a length
    mine = -(-left // world_size) if left > 0 else 0
    return [(consumer.tag, place) for place in range(-(-mine // (consumer.batch_size or batch_size)))]


@given(
    requests=consumers,
    samples=st.integers(12, 30),
    steps=st.integers(1, 3),
    world_size=st.integers(1, 3),
    start=st.integers(0, 12),
    length=st.integers(0, 15),
    repeat_round=st.booleans(),
    data=st.data(),
)
def test_sequence_is_what_the_training_loop_asks_for(
    requests: list[SamplerIntervalConfig],
    samples: int,
    steps: int,
    world_size: int,
    start: int,
    length: int,
    repeat_round: bool,
    data: st.DataObject,
) -> None:
    rank = data.draw(st.integers(0, world_size - 1))
    effective = steps * world_size
    order = TrainingOrder(samples, effective, 1, seed=0, rank=rank, world_size=world_size)
    expected: list[tuple[int, int]] = []

    def evaluate(update: int) -> None:
        for request in requests:
            if update and fires_after_update(request, update, effective):
                expected.extend(passes(request, 1, rank, world_size))
        epoch, rest = divmod(update, samples // effective)
        for request in requests:
            if update and rest == 0 and request.every_n_epochs and epoch % request.every_n_epochs == 0:
                expected.extend(passes(request, 1, rank, world_size))

    if repeat_round:
        evaluate(start)
    for update in range(start + 1, start + length + 1):
        expected.extend((TRAINING, step) for step in range(steps))
        evaluate(update)
    sampler = InterleavedSampler(
        order,
        requests,
        batch_size=1,
        rank=rank,
        world_size=world_size,
        start_update=start,
        end_update=start + length,
        repeat_round=repeat_round,
    )
    assert [(found.tag, found.position) for found in sampler] == expected


@given(start=st.integers(0, 25), steps=st.integers(1, 3))
def test_starting_in_the_middle_continues_the_same_order(start: int, steps: int) -> None:
    order = TrainingOrder(samples=23, effective_batch_size=2 * steps, batch_size=2, seed=5)
    whole = list(InterleavedSampler(order, batch_size=2, end_update=30))
    rest = list(InterleavedSampler(order, batch_size=2, start_update=start, end_update=30))
    assert len(rest) == (30 - start) * steps
    for one, other in zip(rest, whole[start * steps :], strict=True):
        assert one[:3] == other[:3]
        assert torch.equal(one.indices, other.indices)


@given(n=st.integers(0, 40), world_size=st.integers(1, 5), batch_size=st.integers(1, 7))
def test_ranks_evaluate_every_sample_exactly_once(n: int, world_size: int, batch_size: int) -> None:
    request = SamplerIntervalConfig(dataset=numbers(n))
    seen: list[int] = []
    for rank in range(world_size):
        own = list(InterleavedSampler(None, [request], batch_size=batch_size, rank=rank, world_size=world_size))
        assert len(own) == request.pass_length(batch_size, rank=rank, world_size=world_size)
        assert all(len(found.indices) <= batch_size for found in own)
        seen.extend(index for found in own for index in found.indices.tolist())
    assert sorted(seen) == list(range(n))


def test_evaluation_alone_gives_each_consumer_one_pass_in_order() -> None:
    first, second = (
        SamplerIntervalConfig(dataset=numbers(3)),
        SamplerIntervalConfig(dataset=numbers(2), batch_size=1),
    )
    found = list(InterleavedSampler(None, [second, first], batch_size=2))
    assert [(one.tag, one.indices.tolist()) for one in found] == [
        (second.tag, [0]),
        (second.tag, [1]),
        (first.tag, [0, 1]),
        (first.tag, [2]),
    ]


def test_consumers_of_equal_configuration_have_different_tags() -> None:
    dataset = numbers(3)
    tags = {SamplerIntervalConfig(dataset=dataset, every_n_epochs=1).tag for _ in range(3)}
    assert len(tags | {TRAINING}) == 4


def test_indices_are_sent_to_workers_without_the_rest_of_the_epoch() -> None:
    epoch = torch.arange(100_000)
    request = TaggedIndices(3, 1, 2, epoch[10:14])
    sent = pickle.dumps(request)
    received = pickle.loads(sent)
    assert len(sent) < 1000
    assert received[:3] == (3, 1, 2)
    assert received.indices.tolist() == [10, 11, 12, 13]


def test_one_batch_is_repeated_with_its_random_numbers_and_intervals_go_on() -> None:
    order = TrainingOrder(16, 4, 2, seed=5, repeats=True)
    consumer = SamplerIntervalConfig(dataset=numbers(3), every_n_epochs=2)
    found = list(InterleavedSampler(order, [consumer], batch_size=2, end_update=3))
    training = [(one.epoch, one.position, one.indices.tolist()) for one in found if one.tag == TRAINING]
    assert order.updates_per_epoch == 1
    assert training == training[:2] * 3
    assert [one[:2] for one in training[:2]] == [(0, 0), (0, 1)]
    assert [one.tag == TRAINING for one in found] == [True] * 4 + [False] * 2 + [True] * 2


def test_a_limit_of_batches_cuts_a_pass_on_each_rank() -> None:
    consumer = SamplerIntervalConfig(dataset=numbers(11), every_n_epochs=1, limit_batches=2)
    for rank, first in ((0, 0), (1, 6)):
        sampler = InterleavedSampler(None, [consumer], batch_size=2, rank=rank, world_size=2)
        assert [one.indices.tolist() for one in sampler] == [[first, first + 1], [first + 2, first + 3]]
        assert consumer.pass_length(2, rank=rank, world_size=2) == 2
        assert list(consumer.batch_lengths(2, rank=rank, world_size=2)) == [2, 2]
