"""The same batches from this process and from workers."""

import gc
import os
import pickle
import random
import time

import numpy as np
import pytest
import torch

from noether.data.container import DataContainer
from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.loader import TrainingLoader
from noether.errors import DataError


class Augmented(Dataset):
    """Draws from all three generators for each sample; sample 13 is damaged on demand."""

    def __init__(self, damaged: bool = False) -> None:
        super().__init__()
        self.damaged = damaged

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.damaged and index == 13:
            raise DataError("record 13 is damaged", hint="remove it")
        return {
            "index": torch.tensor(index),
            "x": torch.tensor([random.random(), np.random.rand()]) + torch.rand(2),
        }


class WorkerIds(Dataset):
    """Tells which process loaded a sample."""

    deterministic = True

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"worker": torch.tensor(os.getpid())}


def loader(num_workers: int, **options: bool) -> TrainingLoader:
    test = InMemoryDataset({"x": torch.arange(10.0)})
    data = DataContainer({"train": Augmented(**options), "test": test}, num_workers=num_workers, seed=4)
    request = data.sampler_config("test", every_n_updates=3)
    return data.build_loader([request], batch_size=4, effective_batch_size=8, start_update=2, end_update=8)


def generator_states() -> tuple[object, ...]:
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()


def test_two_workers_give_the_batches_of_none_and_training_generators_do_not_move() -> None:
    before = generator_states()
    alone, shared = list(loader(0)), list(loader(2))
    assert generator_states() == before
    assert len(alone) == len(shared) == 6 * 2 + 2 * 3
    assert len({one.tag for one in alone}) == 2
    for one, other in zip(alone, shared, strict=True):
        assert one.position == other.position
        assert one.batch.keys() == other.batch.keys()
        assert all(torch.equal(one.batch[name], other.batch[name]) for name in one.batch)


def test_error_in_a_worker_keeps_its_message_names_the_sample_and_stops_the_pool_at_once() -> None:
    built = loader(1, damaged=True)
    with pytest.raises(DataError) as caught:
        list(built)
    assert "13" in str(caught.value)
    start = time.monotonic()
    del built
    gc.collect()
    assert time.monotonic() - start < 3  # torch's own iterator takes five seconds


def test_an_evaluation_loader_keeps_its_workers() -> None:
    data = DataContainer({"test": WorkerIds()}, num_workers=1)
    built = data.build_loader([data.sampler_config("test")], batch_size=2, evaluation=True)
    workers = {int(one.batch["worker"][0]) for _ in range(3) for one in built}
    assert len(workers) == 1
    assert workers != {os.getpid()}


def test_it_is_a_data_loader_and_travels_to_spawned_workers() -> None:
    data = DataContainer({"train": InMemoryDataset({"x": torch.arange(8)})})
    built = data.build_loader(batch_size=4, end_update=1)
    assert isinstance(built, torch.utils.data.DataLoader)
    request = next(iter(built.sampler))
    restored = pickle.loads(pickle.dumps(built.dataset))
    assert torch.equal(restored[request].batch["x"], built.dataset[request].batch["x"])


def test_iterating_again_starts_again() -> None:
    built = loader(0)
    first, second = next(iter(built)), next(iter(built))
    assert torch.equal(first.batch["x"], second.batch["x"])


class Drawing(Dataset):
    """Draws from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.torch, self.numpy = torch.Generator().manual_seed(1), np.random.default_rng(1)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.rand(1, generator=self.torch) + self.numpy.random()}


@pytest.mark.slow
@pytest.mark.parametrize("samples", [InMemoryDataset({"x": torch.arange(8)}), Drawing()], ids=["rows", "drawn"])
def test_spawned_workers_give_the_same_batches(samples: Dataset) -> None:
    here = DataContainer({"train": samples}).build_loader(batch_size=4, end_update=3)
    spawned = TrainingLoader(here.dataset, here.sampler, num_workers=1, start_method="spawn")  # type: ignore[arg-type]  # torch forgets the types
    assert [one.batch["x"].tolist() for one in spawned] == [one.batch["x"].tolist() for one in here]


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Pretend that there is an accelerator; the tensors that were put in page-locked memory."""
    found: list[torch.Tensor] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: found.append(tensor) or tensor)
    return found


def with_names(samples):
    return {"x": torch.stack([sample["x"] for sample in samples]), "names": ["a", "b"], "graph": {"size": 2}}


@pytest.mark.parametrize(
    ("collator", "expected"), [(with_names, {"names": ["a", "b"], "graph": {"size": 2}}), (len, 2)]
)
def test_a_pinned_batch_keeps_values_that_are_not_tensors(pinned, collator, expected) -> None:
    data = DataContainer({"train": InMemoryDataset({"x": torch.arange(2.0)})}, collators={"train": collator})
    data.pin_memory = True
    (tagged,) = data.build_loader(batch_size=2, end_update=1)
    if isinstance(expected, dict):
        assert [tensor.sort().values.tolist() for tensor in pinned] == [[0.0, 1.0]]
        assert {name: tagged.batch[name] for name in expected} == expected
    else:
        assert (pinned, tagged.batch) == ([], expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_pinned_without_an_accelerator(monkeypatch, workers) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pytest.fail("there is nothing to pin for"))
    data = DataContainer({"train": InMemoryDataset({"x": torch.arange(2.0)})}, pin_memory=True, num_workers=workers)
    assert len(list(data.build_loader(batch_size=2, end_update=1))) == 1
