"""Costs of hooks: the time of each callback and run plugin, the tensors that it makes, the values that it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from noether.metrics.device import READING_METHODS, is_read

HOOKS_OF_UPDATES = (
    "before_optimizer_step",
    "track_after_accumulation_step",
    "track_after_update_step",
    "after_update",
    "after_epoch",
    "periodic_callback",
    "checkpoint_committed",
)
"""Hooks whose cost is one of updates; the others are called around training."""


_IDLE = 0.0005
"""Seconds of a call without computing, from which on it is asked if other processes had the processor."""


@dataclass(slots=True)
class Cost:
    """Calls of one hook of one callback or run plugin, without the calls of other callbacks inside of them.

    Attributes:
        calls: Calls that were timed.
        seconds: Their seconds.
        counted: Calls in which operators were counted.
        allocations: Tensors that those have made.
        waits: Values that those have read, for which the host waits if they are on a device.
    """

    calls: int = 0
    seconds: float = 0.0
    counted: int = 0
    allocations: int = 0
    waits: int = 0


@dataclass(frozen=True, slots=True)
class CallbackCost:
    """Cost of one hook of one callback or run plugin, for each update.

    Attributes:
        name: Id of the callback, or name of the run plugin.
        hook: Name of the hook.
        us: Microseconds an update.
        calls: Calls an update.
        share: Share in the time of an update, evaluation and boundaries included.
        allocations: Tensors made an update; None if they were not counted.
        waits: Values read an update, for which the host waits if they are on a device; None if they were not counted.
    """

    name: str
    hook: str
    us: float
    calls: float
    share: float
    allocations: float | None = None
    waits: float | None = None


COLUMNS = ("callback", "hook", "us", "share", "calls")


def cells(cost: CallbackCost) -> dict[str, str]:
    """Return a row of the table of costs, by `COLUMNS`."""
    return dict(
        zip(COLUMNS, (cost.name, cost.hook, in_us(cost.us), f"{cost.share:.1%}", f"{cost.calls:.3g}"), strict=True)
    )


def in_us(us: float) -> str:
    """Return microseconds as text: `0.31`, `42.5`, `1,540`."""
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


class Meter:
    """Time and count the calls of hooks that are compiled with its `around`.

    Args:
        ranged: Opens a named range around each call.

    Attributes:
        is_timing: True while calls are timed.
        is_counting: True while the operators of calls are counted.
        current: Cost of the call under way.
        inner: Seconds of the calls inside of it, and those of them in which the thread computed.
    """

    def __init__(self, ranged: Callable[[str], AbstractContextManager[object]] | None = None) -> None:
        self.is_timing = self.is_counting = False
        self.current, self.inner = Cost(), (0.0, 0.0)
        self._costs: dict[tuple[str, str], Cost] = {}
        self._ranged = ranged
        self._waited = _nanoseconds_waited()

    def around(self, hook: str, participant: str) -> Callable[[], AbstractContextManager[object]]:
        """Return what opens a context that measures a call; see `HookWatch`."""
        measured = partial(_Call, self, self._costs.setdefault((hook, participant), Cost()))
        return (
            measured if self._ranged is None else partial(_ranged_call, self._ranged, f"{participant}/{hook}", measured)
        )

    def costs(self, updates: int, seconds: float, rates: Mapping[str, float] | None = None) -> list[CallbackCost]:
        """Return the cost of each hook that was called: the dearest callback first, and its dearest hook.

        Args:
            updates: Updates in which calls were timed.
            seconds: Their seconds in all.
            rates: Calls of `periodic_callback` an update in the whole run, by id, in place of those that were seen.
        """
        empty = _seconds_of_nothing()
        found = []
        for (hook, participant), cost in self._costs.items():
            if not cost.calls or hook not in HOOKS_OF_UPDATES:
                continue
            rate = cost.calls / updates
            if hook == "periodic_callback" and rates is not None:
                rate = rates.get(participant, rate)
            us = 1e6 * rate * max(0.0, cost.seconds / cost.calls - empty)
            each = rate / cost.counted if cost.counted else None
            counts = (None, None) if each is None else (cost.allocations * each, cost.waits * each)
            found.append(CallbackCost(participant, hook, us, rate, us * updates / (1e6 * seconds), *counts))
        totals = dearest(found)
        return sorted(found, key=lambda one: (-totals[one.name], one.name, -one.us))

    def waited(self) -> float:
        """Return the seconds in which this thread waited for a processor, since this was asked before."""
        before, self._waited = self._waited, _nanoseconds_waited()
        return (self._waited - before) * 1e-9

    def called(self, hook: str) -> set[str]:
        """Return the ids of those whose hook was called."""
        return {name for (called, name), cost in self._costs.items() if called == hook and (cost.calls or cost.counted)}


class _Call:
    """One call of a hook, as a context."""

    __slots__ = ("_computed", "_cost", "_meter", "_outer", "_started")

    def __init__(self, meter: Meter, cost: Cost) -> None:
        self._meter, self._cost = meter, cost

    def __enter__(self) -> None:
        meter = self._meter
        self._outer = meter.current, *meter.inner
        meter.current, meter.inner = self._cost, (0.0, 0.0)
        self._computed = thread_time()
        self._started = perf_counter()

    def __exit__(self, *_: object) -> None:
        took = perf_counter() - self._started
        computed = thread_time() - self._computed
        meter, cost = self._meter, self._cost
        if meter.is_timing:
            own = took - meter.inner[0]
            idle = own - (computed - meter.inner[1])
            if idle > _IDLE:
                own -= min(idle, meter.waited())  # the rest is sleep, or waiting for data
            cost.calls += 1
            cost.seconds += own
        cost.counted += meter.is_counting
        meter.current, before, computed_before = self._outer
        meter.inner = before + took, computed_before + computed


@contextmanager
def _ranged_call(
    ranged: Callable[[str], AbstractContextManager[object]],
    name: str,
    measured: Callable[[], AbstractContextManager[object]],
) -> Iterator[None]:
    with ranged(name), measured():
        yield


def _seconds_of_nothing() -> float:
    """Return the seconds that a measured call takes if it does nothing."""
    meter, cost = Meter(), Cost()
    meter.is_timing, lowest = True, 1.0
    for _ in range(300):
        before = cost.seconds
        with _Call(meter, cost):
            pass
        lowest = min(lowest, cost.seconds - before)
    return lowest


def is_eager(trainer: Any) -> bool:
    """Return True if the updates of a trainer call each operator by itself now; in a graph none can be seen."""
    return not trainer.config.use_torch_compile and trainer.one_update.form == "eager"


# Time without that of other processes

_SCHEDULER = Path("/proc/thread-self/schedstat")  # of Linux: nanoseconds on a processor, and waiting for one


def now(device: torch.device) -> float:
    """Return the seconds of a clock that stands while other processes have this thread's processor.

    It is read when the device has done everything that it was given. Sleeping, and waiting for data, is counted.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    while True:
        waited, seconds = _nanoseconds_waited(), perf_counter()
        if _nanoseconds_waited() == waited:  # else it lost the processor in between
            return seconds - waited * 1e-9


def _nanoseconds_waited() -> int:
    """Return the time that this thread has waited for a processor; 0 on a system that does not tell."""
    try:
        return int(_SCHEDULER.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


# Counts: the tensors that a call makes, and the values that it reads


class _Methods(TorchFunctionMode):
    """Count the methods that read a tensor: on a CPU no operator is called for them."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READING_METHODS:
            self._meter.current.waits += 1
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Count the operators that make tensors, and those after which the host needs a value of the device."""

    def __init__(self, meter: Meter, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._meter, self._device = meter, device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        cost, name = self._meter.current, func._schema.name
        if is_read(func, args):
            cost.waits += _device_of(args) == self._device
        elif self._device != "cpu" and name in ("aten::_to_copy", "aten::copy_"):
            source, target = (args[0], result) if name == "aten::_to_copy" else (args[1], args[0])
            waits = source.device.type == self._device and target.device.type == "cpu"
            cost.waits += waits and not (kwargs or {}).get("non_blocking", False)
        if func._schema.returns and func._schema.returns[0].alias_info is None:
            made = result if isinstance(result, tuple | list) else (result,)
            cost.allocations += sum(isinstance(one, torch.Tensor) for one in made)
        return result


def _device_of(args: Sequence[Any]) -> str:
    return next((value.device.type for value in args if isinstance(value, torch.Tensor)), "")


@contextmanager
def counting(meter: Meter, device: torch.device) -> Iterator[None]:
    """Count the operators of this thread; on a CPU, what would wait for a device counts as waiting."""
    with ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(_Methods(meter))
        stack.enter_context(_Operators(meter, device.type))
        meter.is_counting = True
        stack.callback(setattr, meter, "is_counting", False)
        yield


def dearest(costs: Iterable[CallbackCost]) -> dict[str, float]:
    """Return microseconds an update of all hooks together by callback, the dearest first."""
    totals: dict[str, float] = {}
    for cost in costs:
        totals[cost.name] = totals.get(cost.name, 0.0) + cost.us
    return dict(sorted(totals.items(), key=lambda one: -one[1]))
