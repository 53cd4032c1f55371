"""The seam of streams and graphs: what the stand-in does as CUDA does, and the order of calls to torch.cuda."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from noether.metrics.device import CudaDevice, device_of
from noether.testing import RecordingDevice


def test_a_capture_does_no_work_and_a_replay_does_it_again_on_the_same_memory() -> None:
    total, step = torch.zeros(2), torch.ones(2)

    def work() -> torch.Tensor:
        total.add_(step)
        return total * 2.0

    graph, doubled = RecordingDevice().capture(work)
    assert total.tolist() == [0.0, 0.0]
    assert doubled.isnan().all()
    graph.replay()
    step.fill_(3.0)
    graph.replay()
    assert (total.tolist(), doubled.tolist()) == ([4.0, 4.0], [8.0, 8.0])


def test_a_number_of_python_is_a_part_of_the_graph() -> None:
    total, step = torch.zeros(()), 1.0

    def work() -> None:
        total.add_(step)

    graph, _ = RecordingDevice().capture(work)
    step = 5.0
    graph.replay()
    assert total.item() == 1.0


def test_one_value_fills_a_mask_without_a_wait() -> None:
    value, zero = torch.tensor([1.0, -1.0]), torch.zeros(())

    def work() -> None:
        value.index_put_((value < 0,), zero)

    graph, _ = RecordingDevice().capture(work)
    graph.replay()
    assert value.tolist() == [1.0, 0.0]


def test_replays_draw_as_eager_calls_do() -> None:
    torch.manual_seed(1)
    eager = [torch.rand(3).tolist() for _ in range(3)]
    torch.manual_seed(1)
    graph, drawn = RecordingDevice().capture(lambda: torch.rand(3))
    replayed = []
    for _ in range(3):
        graph.replay()
        replayed.append(drawn.tolist())
    assert replayed == eager


WAITS = {
    "item": torch.Tensor.item,
    "if": bool,
    "nonzero": torch.nonzero,
    "mask": lambda value: value.expand(2)[torch.ones(2) > 0],
    "values at a mask": lambda value: value.repeat(2).index_put_((value.expand(2) > 0,), value.expand(2)),
    "number of Python": lambda value: value * torch.tensor(1.0),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_an_operation_that_waits_for_a_device_is_refused_and_leaves_no_trace(wait: Any) -> None:
    value, device = torch.ones(()), RecordingDevice()
    with pytest.raises(RuntimeError, match="waits for the device"):
        device.capture(lambda: wait(value.add_(1.0)))
    assert value.item() == 1.0
    with pytest.raises(RuntimeError, match="waits for the device"), device.refusing_waits():
        wait(value)


def test_only_cuda_devices_that_are_there_have_streams_and_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(torch.device("cpu")) is None
    assert isinstance(device_of(torch.device("cuda", 1)), CudaDevice)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(torch.device("cuda", 1)) is None


class FakeCuda:
    """Stands for `torch.cuda` and writes down what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.mode = 0
        self.current = "current"

    def Stream(self, device: Any = None) -> Any:  # noqa: N802  # torch's name
        return self.named("side")

    def current_stream(self, device: Any) -> Any:
        return self.named(self.current)

    def named(self, name: str) -> Any:
        calls = self.calls

        class Named:
            def wait_stream(self, other: Any) -> None:
                calls.append(f"{name} waits for {other}")

            wait_event = wait_stream

            def record(self, stream: Any) -> None:
                calls.append(f"{name} recorded on {stream}")

            def synchronize(self) -> None:
                calls.append(f"the host waits for {name}")

            def __str__(self) -> str:
                return name

        return Named()

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.calls.append(f"on {stream}")
        outer, self.current = self.current, str(stream)
        yield
        self.current = outer

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        self.calls.append(f"device {device}")
        yield

    def Event(self) -> Any:  # noqa: N802  # torch's name
        return self.named("event")

    def CUDAGraph(self) -> str:  # noqa: N802  # torch's name
        return "graph"

    @contextmanager
    def graph(self, graph: Any, capture_error_mode: str) -> Iterator[None]:
        self.calls.append(f"begin {graph}, {capture_error_mode}")
        yield
        self.calls.append("end")

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: Any) -> None:
        self.mode = mode


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    return fake


def test_work_aside_lies_between_the_work_before_and_after_it_also_after_an_error(cuda: FakeCuda) -> None:
    device = CudaDevice(torch.device("cuda", 0))
    with pytest.raises(ValueError, match="odd"), device.aside():
        cuda.calls.append("work")
        raise ValueError("odd")
    assert cuda.calls == ["side waits for current", "on side", "work", "current waits for side"]


def test_a_capture_leaves_the_threads_that_feed_alone(cuda: FakeCuda) -> None:
    captured = CudaDevice(torch.device("cuda", 0)).capture(lambda: cuda.calls.append("work") or 7)
    assert captured == ("graph", 7)
    assert cuda.calls == ["device cuda:0", "begin graph, thread_local", "work", "end"]


def test_waits_are_refused_in_a_block_only(cuda: FakeCuda) -> None:
    with CudaDevice(torch.device("cuda")).refusing_waits():
        assert cuda.mode == "error"
    assert cuda.mode == 0


class Sent:
    """Stands for a tensor, and writes down what it is asked for."""

    device = torch.device("cuda", 0)

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def to(self, device: Any, *, non_blocking: bool) -> Any:
        self.calls.append(f"copy, waits: {not non_blocking}")
        return self

    def record_stream(self, stream: Any) -> None:
        self.calls.append(f"memory is used on {stream}")


def test_a_batch_is_copied_on_a_side_stream_and_its_memory_kept_while_the_current_one_reads_it(cuda: FakeCuda) -> None:
    sent, copy = CudaDevice(torch.device("cuda", 0)).send({"x": Sent(cuda.calls)})  # type: ignore[dict-item]
    assert cuda.calls == ["on side", "copy, waits: False", "event recorded on side"]
    cuda.calls.clear()
    copy.receive()
    assert cuda.calls == ["current waits for event", "memory is used on current"]
    cuda.calls.clear()
    copy.receive()  # once is enough
    copy.wait()
    assert cuda.calls == ["the host waits for event"]
    assert list(sent) == ["x"]
