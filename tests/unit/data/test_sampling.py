"""Orders of training other than each sample once: proportions, and pure functions of seed, epoch and position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noether.config.components import SamplingTable
from noether.data.container import DataContainer
from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.samplers import TaggedIndices, TrainingOrder
from noether.data.sampling import Buckets, Drawn, Mixed, Sampling, order_of, shares
from noether.errors import DataError, SpecError

weights = st.lists(st.floats(0, 100), min_size=8, max_size=40).filter(lambda found: sum(found) > 1)


def sampling(**options: Any) -> SamplingTable:
    return SamplingTable(**options)


@given(weights=weights, size=st.integers(1, 80), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_a_sample_is_drawn_its_share_of_an_epoch_rounded_down_or_up(
    weights: list[float], size: int, seed: int, epoch: int
) -> None:
    drawn = Drawn(torch.tensor(weights, dtype=torch.float64)).order(size, 1, seed, epoch)
    counts = torch.bincount(drawn, minlength=len(weights))
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights) * size
    assert len(drawn) == size
    assert bool((counts - shares).abs().lt(1 + 1e-6).all())
    assert not counts[torch.tensor(weights) == 0].any()


@given(n=st.integers(1, 60), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_equal_weights_visit_each_sample_once(n: int, seed: int, epoch: int) -> None:
    drawn = Drawn(torch.full((n,), 0.1, dtype=torch.float64)).order(n, 1, seed, epoch)
    assert sorted(drawn.tolist()) == list(range(n))


def test_over_many_epochs_a_sample_is_drawn_by_its_weight() -> None:
    rare = torch.tensor([0.003, 0.002, *[1.0] * 8], dtype=torch.float64)  # less than once an epoch
    counts = sum(torch.bincount(Drawn(rare).order(10, 1, 0, epoch), minlength=10) for epoch in range(4000))
    found = torch.as_tensor(counts) / 40_000
    assert found[0] == pytest.approx(0.003 / 8.005, rel=0.3)
    assert found[2:] == pytest.approx(torch.full((8,), 1 / 8.005), rel=0.02)


@given(labels=st.lists(st.integers(0, 3), min_size=4, max_size=60), epoch=st.integers(0, 5))
def test_balanced_classes_are_drawn_equally_often_whatever_their_sizes(labels: list[int], epoch: int) -> None:
    data = InMemoryDataset({"label": torch.tensor(labels)})
    order = order_of(sampling(kind="balanced", by="label"), data)
    assert order is not None
    drawn = torch.tensor(labels)[order.order(len(labels), 1, 3, epoch)]
    share = len(labels) / len(set(labels))
    assert all(abs(int((drawn == label).sum()) - share) < 1 + 1e-6 for label in set(labels))


@given(
    world_size=st.integers(1, 3),
    batch_size=st.integers(1, 3),
    steps=st.integers(1, 3),
    epoch=st.integers(0, 3),
    kind=st.sampled_from(["drawn", "buckets", "mixed"]),
    data=st.data(),
)
def test_ranks_steps_and_resumes_see_the_same_updates_as_one_process_from_the_start(
    world_size: int, batch_size: int, steps: int, epoch: int, kind: str, data: st.DataObject
) -> None:
    effective, samples = world_size * batch_size * steps, 60
    orders: dict[str, Sampling] = {
        "drawn": Drawn(torch.arange(1.0, samples + 1).double()),
        "buckets": Buckets(torch.arange(samples) % 7, pool=2),
        "mixed": Mixed((40, 20), (1.0, 3.0), samples),
    }
    whole = TrainingOrder(samples, effective, effective, 7, sampling=orders[kind])
    expected = torch.stack(list(whole.batches(epoch)))
    first = data.draw(st.integers(0, whole.updates_per_epoch - 1))
    ranks = [
        TrainingOrder(samples, effective, batch_size, 7, rank, world_size, sampling=orders[kind])
        for rank in range(world_size)
    ]
    parts = [torch.cat(list(order.batches(epoch, first))).view(-1, steps * batch_size) for order in ranks]
    assert torch.equal(torch.cat(parts, dim=1), expected[first:])


def test_another_epoch_or_seed_is_another_order() -> None:
    order = Drawn(torch.ones(50, dtype=torch.float64))
    assert len({tuple(order.order(50, 1, *at).tolist()) for at in [(0, 0), (0, 1), (1, 0)]}) == 3


@given(seed=st.integers(0, 20), epoch=st.integers(0, 3), pool=st.integers(2, 12))
def test_buckets_visit_each_sample_once_and_pad_less(seed: int, epoch: int, pool: int) -> None:
    sizes = torch.randint(1, 1000, (240,), generator=torch.Generator().manual_seed(seed))
    plain = list(TrainingOrder(240, 8, 4, seed).batches(epoch))
    bucketed = list(TrainingOrder(240, 8, 4, seed, sampling=Buckets(sizes, pool)).batches(epoch))
    assert sorted(torch.cat(bucketed).tolist()) == list(range(240))

    def padding(batches: list[torch.Tensor]) -> int:
        return sum(int((sizes[batch].max() - sizes[batch]).sum()) for batch in batches)

    assert padding(bucketed) < 0.8 * padding(plain)


def test_every_batch_of_one_pool_pads_less_than_the_worst_of_the_plain_ones() -> None:
    sizes = torch.arange(1, 65)
    plain = TrainingOrder(64, 8, 8, 0).batches(0)
    worst = min(int(sizes[batch].max() - sizes[batch].min()) for batch in plain)
    bucketed = TrainingOrder(64, 8, 8, 0, sampling=Buckets(sizes, pool=8)).batches(0)
    assert all(int(sizes[batch].max() - sizes[batch].min()) == 7 < worst for batch in bucketed)


def test_a_mixture_draws_its_shares_and_visits_a_part_in_passes_over_epochs() -> None:
    mixed = Mixed((10, 4), (3.0, 1.0), 8)
    assert mixed.counts == (6, 2)
    drawn = torch.cat([mixed.order(8, 4, 0, epoch) for epoch in range(5)])
    first, second = drawn[drawn < 10], drawn[drawn >= 10] - 10
    assert torch.equal(torch.bincount(first), torch.full((10,), 3))  # 5 epochs of 6: three passes
    counts = torch.bincount(second, minlength=4)  # 5 epochs of 2: two passes and a half
    assert sorted(counts.tolist()) == [2, 2, 3, 3]


@given(total=st.integers(1, 1000), parts=st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_shares_are_whole_numbers_with_the_right_sum(total: int, parts: list[float]) -> None:
    found = shares(total, parts)
    assert sum(found) == total
    assert all(abs(one - total * part / sum(parts)) <= 1 for one, part in zip(found, parts, strict=True))


class Clouds(Dataset):
    """Samples of 1 to 5 points."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"points": torch.zeros(index % 5 + 1, 2), "n": torch.tensor(index % 5 + 1), "name": "a"}  # type: ignore[dict-item]


@pytest.mark.parametrize("by", ["points", "n"])
def test_sizes_are_lengths_of_a_property_or_its_numbers(by: str) -> None:
    found = order_of(sampling(kind="buckets", by=by), Clouds())
    assert isinstance(found, Buckets)
    assert found.sizes.tolist() == [1, 2, 3, 4, 5] * 2


def test_weights_come_from_a_column_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("w,v\n0,1\n3,1\n1,1\n")
    data = InMemoryDataset({"x": torch.arange(3)})
    found = order_of(sampling(kind="weighted", by="w", path=tmp_path / "w.csv"), data)
    assert isinstance(found, Drawn)
    assert found.weights.tolist() == [0, 3, 1]
    (tmp_path / "w.csv").write_text("w\n1\n2\n")
    with pytest.raises(DataError) as short:
        order_of(sampling(kind="weighted", by="w", path=tmp_path / "w.csv"), data)
    assert "found 2, expected 3" in str(short.value)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"kind": "weighted", "by": "v"}, [1.0, -1.0]),
        ({"kind": "weighted", "by": "v"}, [0.0, 0.0]),
        ({"kind": "weighted", "by": "v"}, [1.0, float("nan")]),
        ({"kind": "weighted", "by": "v"}, [1.0, float("inf")]),
        ({"kind": "weighted", "by": "v"}, [[1.0, 2.0], [1.0, 2.0]]),
        ({"kind": "weighted", "by": "w"}, [1.0, 2.0]),
        ({"kind": "balanced", "by": "v"}, [0.5, 1.0]),
        ({"kind": "buckets", "by": "v"}, [[1.0, 2.0], [1.0, 2.0]]),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, str], values: list[Any]) -> None:
    with pytest.raises(DataError):
        order_of(sampling(**options), InMemoryDataset({"v": torch.tensor(values)}))


def test_texts_are_refused_as_classes() -> None:
    with pytest.raises(DataError):
        order_of(sampling(kind="balanced", by="name"), Clouds())


def test_two_orders_at_once_are_refused() -> None:
    data = InMemoryDataset({"label": torch.tensor([0, 1])})
    with pytest.raises(SpecError):
        order_of(sampling(kind="balanced", by="label"), data, shuffle=False)
    data.shuffle_block = 4  # type: ignore[attr-defined]
    with pytest.raises(DataError):
        order_of(sampling(kind="balanced", by="label"), data)
    assert order_of(None, data, shuffle=False) is None


def test_evaluation_passes_stay_as_they_are() -> None:
    data = DataContainer({"train": InMemoryDataset({"label": torch.tensor([0, 0, 0, 1])})})
    consumer = data.sampler_config("train", every_n_epochs=1)
    loader = data.build_loader([consumer], batch_size=4, end_update=1, sampling=sampling(kind="balanced", by="label"))
    training, evaluation = list(loader.sampler)
    assert isinstance(training, TaggedIndices)
    assert torch.bincount(training.indices, minlength=4)[3] == 2
    assert evaluation.indices.tolist() == [0, 1, 2, 3]


def test_a_resolved_table_of_sampling_is_valid_and_pool_belongs_to_buckets() -> None:
    for kind in ("weighted", "balanced", "buckets"):
        table = SamplingTable.model_validate({"kind": kind, "by": "w"})
        assert SamplingTable.model_validate(table.model_dump()) == table
    with pytest.raises(ValueError, match="pool is an option of buckets"):
        SamplingTable.model_validate({"kind": "balanced", "by": "w", "pool": 7})
