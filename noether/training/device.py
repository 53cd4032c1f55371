"""Streams and graphs of a device, behind one small seam; `noether.testing.RecordingDevice` stands in on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Graph(Protocol):
    """Captured work of a device."""

    def replay(self) -> object:
        """Do the work again, on the memory and with the numbers that it was captured with; waits for nothing."""


class GraphDevice(Protocol):
    """A device that captures work as a graph.

    Attributes:
        name: Name of the device in messages.
    """

    @property
    def name(self) -> str:
        """Return the name of the device in messages."""

    def aside(self) -> AbstractContextManager[None]:
        """Return a context on a side stream, which waits for the current stream, and which that one then waits for."""

    def capture(self, work: Callable[[], T]) -> tuple[Graph, T]:
        """Return the work as a graph, and its result, whose tensors are memory of the graph; no work is done yet.

        Raises:
            RuntimeError: if a part of it cannot be captured: a value is read on the host, for example.
        """

    def refusing_waits(self) -> AbstractContextManager[None]:
        """Return a context in which an operation that waits for the device raises RuntimeError."""

    def generator_state(self) -> Tensor:
        """Return the state of the device's default generator."""


class CudaDevice:
    """Streams and graphs of a CUDA device.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None

    @property
    def name(self) -> str:
        """Return the name of the device in messages."""
        return str(self._device)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run a block on a side stream, between the work of the current stream before and after it."""
        current = torch.cuda.current_stream(self._device)
        if self._side is None:
            self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # untyped in torch
        self._side.wait_stream(current)
        try:
            with torch.cuda.stream(self._side):
                yield
        finally:
            current.wait_stream(self._side)

    def capture(self, work: Callable[[], T]) -> tuple[Graph, T]:
        """Capture the work of this thread; threads that feed or read go on with theirs."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = work()
        return graph, result

    @contextmanager
    def refusing_waits(self) -> Iterator[None]:
        """Let torch raise an error if an operation of the block waits for the device."""
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def generator_state(self) -> Tensor:
        """Return the state of the device's default generator."""
        return torch.cuda.get_rng_state(self._device)


def graph_device(device: torch.device) -> GraphDevice | None:
    """Return the streams and graphs of a device; None if it has none."""
    return CudaDevice(device) if device.type == "cuda" else None
