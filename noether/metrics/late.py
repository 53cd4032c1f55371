"""Late reads: values of a device that travel to the host without waiting; used, in order, once they are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from noether.metrics.device import Event, recorded, to_host


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
