"""Staged batches: the same ones, in order, from buffers that are not overwritten while they are copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noether.data import container
from noether.data.container import DataContainer
from noether.data.dataset import Dataset, InMemoryDataset
from noether.data.fetch import fetch_of
from noether.data.loader import TrainingLoader
from noether.data.samplers import SamplerIntervalConfig
from noether.data.staging import AHEAD, SHARE, Stage, require_resident, residence
from noether.data.transforms import Transform
from noether.errors import DataError
from noether.testing import RecordingDevice
from noether.testing.builders import RecordedCopy

CPU = torch.device("cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> RecordingDevice:
    """A device that copies late, in place of the CPU."""
    made = RecordingDevice()
    monkeypatch.setattr(container, "device_of", lambda _: made)
    return made


class Squares(Dataset):
    """Loads sample by sample, tensors beside a text."""

    deterministic = True

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 13 and self.broken:
            raise DataError("record 13 is damaged")
        return {"name": f"sample {index}", "x": torch.tensor([index, index**2])}

    broken = False


class Noisy(Squares):
    """Draws its samples."""

    deterministic = False

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.rand(3) + index}


class Doubling(Transform):
    """Doubles on the way to the batch, because it says that it is no function of the sample alone."""

    deterministic = True
    batched = False

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "x": 2 * sample["x"]}


def rows(samples: int = 20) -> InMemoryDataset:
    generator = torch.Generator().manual_seed(1)
    return InMemoryDataset(
        {
            "x": torch.randn(samples, 3, generator=generator),
            "image": torch.randint(0, 255, (samples, 2, 2), generator=generator, dtype=torch.uint8),
            "label": torch.arange(samples),
            "half": torch.randn(samples, generator=generator).half(),
        }
    )


def staged_data(datasets: dict[str, Any], **options: Any) -> DataContainer:
    """Return data whose loaders copy to a device if there is one; without an accelerator nothing is pinned."""
    return DataContainer(datasets, pin_memory=True, **options)


DATA: dict[str, Callable[[], DataContainer]] = {
    "rows of tensors": lambda: staged_data({"train": rows(), "test": rows(7)}, seed=3),
    "samples with texts": lambda: staged_data({"train": Squares(), "test": Squares()}, seed=3),
    "random samples": lambda: staged_data({"train": Noisy(), "test": Noisy()}, seed=3),
    "transformed samples": lambda: staged_data({"train": rows(), "test": rows(7)}, seed=3, transforms=[Doubling()]),
}


def loader_of(data: DataContainer, **options: Any) -> TrainingLoader:
    test = SamplerIntervalConfig(dataset=data.get_dataset("test"), key="test", every_n_updates=2, batch_size=3)
    return data.build_loader([test], batch_size=2, effective_batch_size=4, end_update=8, device=CPU, **options)


def batches(data: DataContainer, **options: Any) -> list[tuple[bool, int, Any]]:
    """Return all batches with their place; the tag is a number of the process."""
    return [(tag == 0, position, batch) for tag, position, batch in loader_of(data, **options)]


def assert_equal(found: list[tuple[bool, int, Any]], expected: list[tuple[bool, int, Any]]) -> None:
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    for (*_, batch), (*_, other) in zip(found, expected, strict=True):
        assert list(batch) == list(other)
        for name, value in batch.items():
            if not isinstance(value, Tensor):
                assert value == other[name]
                continue
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name])


@pytest.mark.parametrize("name", DATA)
def test_staged_batches_are_those_of_the_host_in_their_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(DATA[name]())
    monkeypatch.setattr(container, "device_of", lambda _: RecordingDevice())
    assert_equal(batches(DATA[name]()), expected)


def test_a_copy_begins_before_the_batch_before_it_is_used(device: RecordingDevice) -> None:
    for place, _ in enumerate(loader_of(DATA["rows of tensors"]()), start=1):
        assert device.calls.count("receive") == place
        if place < 10:
            assert device.calls.count("send") == place + AHEAD - 1


def test_buffers_are_used_again_and_the_host_never_waits_for_one(device: RecordingDevice) -> None:
    stream = loader_of(DATA["rows of tensors"]())
    seen = list(stream)
    assert len(seen) > 20
    assert device.calls.count("buffer") <= 4 * 2 * (
        AHEAD + 1
    )  # one for each property of a slot, and larger ones for evaluation
    assert "wait" not in device.calls


def test_a_copy_that_is_late_is_waited_for_before_its_buffer_is_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(RecordedCopy):
        def receive(self) -> None:
            pass  # the device has not come to the batch that the host has passed on

    device = RecordingDevice()
    monkeypatch.setattr(container, "device_of", lambda _: device)
    monkeypatch.setattr("noether.testing.builders.RecordedCopy", Lazy)
    found = batches(DATA["rows of tensors"]())
    monkeypatch.setattr(container, "device_of", lambda _: None)
    assert "wait" in device.calls
    done = len(found) - AHEAD - 1  # the last copies were never waited for
    assert_equal(found[:done], batches(DATA["rows of tensors"]())[:done])


def test_rows_are_gathered_straight_into_the_buffers(device: RecordingDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InMemoryDataset, "__getitems__", property())
    monkeypatch.setattr("noether.data.staging.in_memory", lambda dataset: dataset)
    assert len(batches(DATA["rows of tensors"]())) > 20


def test_an_error_of_a_sample_comes_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    for device in (RecordingDevice(), None):
        monkeypatch.setattr(container, "device_of", lambda _, device=device: device)
        data, found = DATA["samples with texts"](), []
        data.train.broken = True  # type: ignore[attr-defined]  # both are `Squares`
        with pytest.raises(DataError, match="record 13"):
            for tagged in loader_of(data, shuffle=False):
                found.append((tagged.tag == 0, tagged.position))  # it ends with the error
        places.append(found)
    assert places[0] == places[1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_batches_of_any_sizes_fit_into_the_ring(sizes: list[int]) -> None:
    stage, source, staged = Stage(RecordingDevice()), fetch_of(rows(), 0), []
    wanted = [torch.arange(size) for size in sizes]
    for indices in wanted:
        staged.append((indices, stage.load(source, indices, 0)))
        if len(staged) == AHEAD:
            used, receive = staged.pop(0)
            assert torch.equal(receive()["label"], used)


def test_workers_and_staging_give_the_same_batches(device: RecordingDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def data(workers: int) -> DataContainer:
        return staged_data({"train": Squares(), "test": Squares()}, seed=3, num_workers=workers)

    found = batches(data(2))
    monkeypatch.setattr(container, "device_of", lambda _: None)
    assert_equal(found, batches(data(0)))


# Data sets that stay on the device


@pytest.fixture
def free(device: RecordingDevice, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Free memory of the device."""
    memory = {"bytes": 10**6}
    monkeypatch.setattr(container, "free_memory", lambda _: memory["bytes"])
    return memory


@pytest.mark.parametrize("resident", [True, "auto"])
def test_batches_gathered_on_the_device_are_those_of_the_host(
    free: dict[str, int], device: RecordingDevice, monkeypatch: pytest.MonkeyPatch, resident: Any
) -> None:
    data = staged_data({"train": rows(), "test": rows(7)}, seed=3, device_resident=resident)
    found = batches(data)
    monkeypatch.setattr(container, "device_of", lambda _: None)
    assert_equal(found, batches(DATA["rows of tensors"]()))


def test_only_indices_travel(free: dict[str, int], device: RecordingDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Tensor]] = []
    send = device.send
    monkeypatch.setattr(device, "send", lambda tensors: (sent.append(tensors), send(tensors))[1])
    batches(staged_data({"train": rows(), "test": rows(7)}, device_resident=True))
    assert {tensor.dtype for tensors in sent for tensor in tensors.values()} == {torch.int64}
    assert all(len(tensors) == 1 for tensors in sent)


@pytest.mark.parametrize(
    ("name", "bytes_free"),
    [
        ("rows of tensors", 100),
        ("samples with texts", 10**6),
        ("random samples", 10**6),
        ("transformed samples", 10**6),
    ],
)
def test_data_that_cannot_stay_on_the_device_are_refused_or_loaded_from_the_host(
    free: dict[str, int], name: str, bytes_free: int
) -> None:
    free["bytes"] = bytes_free
    data = DATA[name]()
    data.device_resident = True
    with pytest.raises(DataError):
        loader_of(data)
    data = DATA[name]()
    data.device_resident = "auto"
    assert_equal(batches(data), batches(DATA[name]()))


def test_data_fit_if_they_take_no_more_than_their_share() -> None:
    source = fetch_of(rows(), 0)
    size = residence([source], 10**9).bytes
    assert size == 20 * (12 + 4 + 8 + 2)
    assert residence([source, fetch_of(source.dataset, 0)], 10**9).bytes == size  # type: ignore[attr-defined]
    assert require_resident(residence([source], int(size / SHARE)), "auto")
    assert not require_resident(residence([source], int(size / SHARE) - 2), "auto")


def test_on_the_cpu_nothing_moves() -> None:
    data = staged_data({"train": rows(), "test": rows(7)}, seed=3, device_resident=True)
    assert loader_of(data).device is None
    assert_equal(batches(data), batches(DATA["rows of tensors"]()))


def test_without_page_locked_memory_batches_stay_on_the_host(device: RecordingDevice) -> None:
    assert loader_of(DataContainer({"train": rows(), "test": rows(7)}, pin_memory=False)).device is None


def test_data_sets_are_copied_to_the_device_once(free: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    data = staged_data({"train": rows(), "test": rows(7)}, device_resident=True)
    loader_of(data)
    kept = dict(data._resident)
    loader_of(data)
    assert data._resident == kept
    assert len(kept) == 8
