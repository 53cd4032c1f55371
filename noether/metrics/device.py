"""Streams, events, graphs and late reads of a device behind one seam; `noether.testing.RecordingDevice` plays a device.

Copies to the device run on a stream of their own, copies to the host on the current one: an event says when they are
complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

READING_OPERATORS = frozenset(
    {
        "_local_scalar_dense",
        "equal",
        "nonzero",
        "masked_select",
        "bincount",
        "_unique",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "unique_dim_consecutive",
        "_linalg_check_errors",
    }
)
"""Operators for which the host waits for a value of the device, or for a size that depends on one."""
READING_METHODS = frozenset({Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__})
"""Methods that read a tensor of the host without an operator; for a tensor of a device the host waits."""


class Graph(Protocol):
    """Captured work of a device."""

    def replay(self) -> object:
        """Do the work again, on the memory and with the numbers that it was captured with; waits for nothing."""


class Event(Protocol):
    """A place in the work of a device, as `torch.cuda.Event`."""

    def query(self) -> bool:
        """Return True if the device has come to it."""

    def synchronize(self) -> None:
        """Wait until it has."""


class Copy(Protocol):
    """A copy to the device that is under way."""

    def wait(self) -> None:
        """Wait on the host until the copy is complete, and its source may be overwritten."""

    def receive(self) -> None:
        """Let the work that the device is given from now on wait for the copy; the host does not."""


class Device(Protocol):
    """A device that copies beside its computations, and captures work as a graph.

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

    def buffer(self, size: int) -> Tensor:
        """Return a flat buffer of `size` bytes from which the device can copy by itself."""

    def send(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Copy]:
        """Begin to copy tensors that lie in such buffers; return the tensors on the device, and the copy."""


class CudaDevice:
    """Streams and graphs of a CUDA device; the streams are made when they are first used.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None
        self._copies: torch.cuda.Stream | None = None

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

    def buffer(self, size: int) -> Tensor:
        """Return a buffer of page-locked memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def send(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Copy]:
        """Copy on a stream of its own, into memory that torch gives to that stream."""
        if self._copies is None:
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # untyped in torch
        with torch.cuda.stream(self._copies):
            sent = {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()}
            return sent, _CudaCopy(recorded(self._device), list(sent.values()))


class _CudaCopy:
    def __init__(self, event: Any, tensors: list[Tensor]) -> None:
        self._event, self._tensors = event, tensors

    def wait(self) -> None:
        self._event.synchronize()

    def receive(self) -> None:
        for tensor in self._tensors:
            current = torch.cuda.current_stream(tensor.device)
            current.wait_event(self._event)
            tensor.record_stream(current)  # its memory must not be given away while the current stream uses it
        self._tensors = []


class _Reached:
    """An event of a device whose copies to the host wait in any case."""

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return None


def is_read(operator: Any, args: Sequence[Any]) -> bool:
    """Return True if the host waits for an operator that a dispatch mode sees.

    Args:
        operator: The operator.
        args: Its arguments.
    """
    name = operator.overloadpacket.__name__
    if name == "index" or (name in ("index_put", "index_put_") and args[2].numel() != 1):  # one value fills a mask
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return name in READING_OPERATORS


def recorded(device: torch.device) -> Event:
    """Return an event after the work that the current stream of a device has been given so far."""
    if device.type != "cuda":
        return _Reached()
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped in torch
    event.record(torch.cuda.current_stream(device))
    return event


def to_host(tensor: Tensor) -> Tensor:
    """Return a copy in the host's memory, which is complete once an event recorded after it is reached."""
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def device_of(device: torch.device | None) -> Device | None:
    """Return the streams and graphs of a device; None if it has none."""
    uses_cuda = device is not None and device.type == "cuda" and torch.cuda.is_available()
    return CudaDevice(device) if device is not None and uses_cuda else None


class Transfer:
    """Copies of some tensors on their way to the host."""

    __slots__ = ("_devices", "_events")

    def __init__(self) -> None:
        self._devices: set[torch.device] = set()
        self._events: list[Event] = []

    def send(self, tensor: Tensor) -> Tensor:
        """Return a copy in the host's memory, to be read when the transfer is done."""
        self._devices.add(tensor.device)
        return to_host(tensor)

    def end(self) -> None:
        """Mark the end of the copies."""
        self._events = [recorded(device) for device in self._devices]

    @property
    def is_done(self) -> bool:
        """True if all copies are complete."""
        return all(event.query() for event in self._events)

    def wait(self) -> None:
        """Wait for the copies."""
        for event in self._events:
            event.synchronize()
        self._events = []


class LateReads:
    """A queue of transfers and the actions that use their values: first in, first out.

    An action that raises an error is not called again if it is a verdict on the run (`once`), and stays first in the
    queue otherwise, as a line that a full disk has refused.

    Attributes:
        waiting: The transfers and actions, the oldest first. Empty if everything has been used.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: deque[tuple[Transfer, Callable[[], object], bool]] = deque()

    def add(self, transfer: Transfer, action: Callable[[], object], *, once: bool = False) -> None:
        """Call `action` when `transfer` is done and all actions before it have been called."""
        transfer.end()
        self.waiting.append((transfer, action, once))

    def poll(self) -> None:
        """Call the actions whose values have arrived; never waits."""
        while self.waiting and self.waiting[0][0].is_done:
            self._call_first()

    def settle(self) -> None:
        """Call all actions; waits for their values."""
        while self.waiting:
            self.waiting[0][0].wait()
            self._call_first()

    def forget(self) -> None:
        """Forget all actions that were not called."""
        self.waiting.clear()

    def _call_first(self) -> None:
        _, action, once = self.waiting[0]
        if once:
            self.waiting.popleft()
        action()
        if not once:
            self.waiting.popleft()
