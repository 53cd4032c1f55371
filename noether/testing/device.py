"""RecordingDevice: a CPU in place of a device with streams and graphs, for tests of code that copies or captures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noether.metrics.device import is_read
from noether.training import graph, nonfinite

T = TypeVar("T")

_COPIES = frozenset({"lift_fresh", "lift_fresh_copy"})  # `torch.tensor(…)`, which comes from pageable memory


class RecordingDevice:
    """Stand-in of a device with streams and graphs, which works on the CPU.

    It captures as CUDA does: a capture changes no memory and no generator; numbers of Python are a part of the graph; a
    replay repeats the operations of torch on the same memory, and nothing else; what a graph computes is not a number
    before its first replay; an operation that would wait for the device is refused.

    It copies as late as it may: when the host waits for a copy, or the device uses it.

    Attributes:
        calls: Calls in order: `aside`, `back` at its end, `capture`, `replay`; `buffer`, `send`, `receive`; `wait` if
            the host had to wait for a copy.
    """

    name = "cpu"

    def __init__(self) -> None:
        self.calls: list[str] = []

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Note the begin and the end of a block on a side stream."""
        self.calls.append("aside")
        try:
            yield
        finally:
            self.calls.append("back")

    def capture(self, work: Callable[[], T]) -> tuple[RecordedGraph, T]:
        """Record the operations of some work, and undo what they have changed."""
        self.calls.append("capture")
        recorder, generator = _Recorder(), torch.get_rng_state()
        try:
            with recorder:
                result = work()
        finally:
            recorder.undo()
            torch.set_rng_state(generator)
        return RecordedGraph(recorder.operations, self.calls), result

    def refusing_waits(self) -> AbstractContextManager[Any]:
        """Return a context in which an operation that would wait for a device raises RuntimeError."""
        return _Refusing()  # type: ignore[no-untyped-call]  # untyped in torch

    def generator_state(self) -> Tensor:
        """Return the state of the default generator."""
        return torch.get_rng_state()

    def buffer(self, size: int) -> Tensor:
        """Return memory in which no number is yet."""
        self.calls.append("buffer")
        return torch.full((size,), 255, dtype=torch.uint8)

    def send(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], RecordedCopy]:
        """Return other tensors, which get their values when the host waits for the copy or the device uses it."""
        self.calls.append("send")
        sent = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
        return sent, RecordedCopy(tensors, sent, self.calls)


@contextmanager
def graphs_on_cpu() -> Iterator[RecordingDevice]:
    """Train with a stand-in of a device with graphs; the CPU masks updates and rounds rates as such ones do."""
    device = RecordingDevice()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "device_of", lambda _: device)
        patch.setattr(nonfinite, "MASKING_DEVICES", frozenset({"cpu"}))
        patch.setattr(nonfinite, "ROUNDING_DEVICES", frozenset({"cpu"}))
        yield device


class RecordedCopy:
    """A copy that is not done before it has to be.

    Args:
        tensors: Tensors to copy.
        sent: Their copies.
        calls: Log of calls.
    """

    def __init__(self, tensors: dict[str, Tensor], sent: dict[str, Tensor], calls: list[str]) -> None:
        self._tensors, self._sent, self._calls = tensors, sent, calls
        self._is_done = False

    def wait(self) -> None:
        """Copy now, and note that the host waits, unless it was done."""
        if not self._is_done:
            self._calls.append("wait")
            self._copy()

    def receive(self) -> None:
        """Copy before the device uses it."""
        self._calls.append("receive")
        if not self._is_done:
            self._copy()

    def _copy(self) -> None:
        for name, tensor in self._tensors.items():
            self._sent[name].copy_(tensor)
        self._is_done = True


class RecordedGraph:
    """Operations of torch, to repeat on the same memory.

    Args:
        operations: The operations.
        calls: Log of calls.
    """

    def __init__(self, operations: list[tuple[Any, Any, Any, list[Tensor | None]]], calls: list[str]) -> None:
        self._operations = operations
        self._calls = calls

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat the operations; a result is copied to the memory of the result that was recorded."""
        self._calls.append("replay")
        for operation, args, kwargs, made in self._operations:
            for target, value in zip(made, tree_leaves(operation(*args, **kwargs)), strict=True):
                if target is not None:
                    target.copy_(value)


class _Refusing(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_read(func, args) or func.overloadpacket.__name__ in _COPIES:
            raise RuntimeError(f"operation not permitted: {func.overloadpacket.__name__} waits for the device")
        return self.do(func, args, kwargs or {})

    def do(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)


class _Recorder(_Refusing):  # type: ignore[no-untyped-call]  # untyped in torch
    """Records operations, and the memory that they may change as it was before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch
        self.operations: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def do(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        for tensor in tensors:  # all of them: not every operation declares what it writes to
            if _place(tensor) not in self._own:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before.setdefault(_place(tensor), (whole, whole.clone()))
        given, result = set(map(_place, tensors)), func(*args, **kwargs)
        leaves = tree_leaves(result)
        made = [leaf if isinstance(leaf, Tensor) and _place(leaf) not in given else None for leaf in leaves]
        self._own.update(_place(tensor) for tensor in made if tensor is not None)
        self.operations.append((func, args, kwargs, made))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Put memory back, and leave no number in the memory of the graph."""
        for whole, before in self._before.values():
            whole.copy_(before)
        for _, _, _, made in self.operations:
            for tensor in made:
                if tensor is not None and tensor.is_floating_point():
                    tensor.detach().fill_(float("nan"))


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
