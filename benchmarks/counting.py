"""Exact counts of an update: Python calls by function, tensor operations, allocations, reads of values.

Counted is what one thread does between two updates of one run, so that its start and its end do not count. The garbage
collector is off meanwhile: it calls functions at instants of its own, those of objects that earlier tests have left
among them. What the clock decides is left out too, so that a count does not depend on the speed of a machine.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from noether.metrics.device import READING_METHODS, is_read

Run = Callable[[Mapping[int, Callable[[], object]]], object]
"""Trains, and calls each function once its number of updates is done; it ends after the last."""

SPAN = (10, 42)
"""Of the tiny problem, within its first epoch and between two boundaries."""
RUNNING = "the loop of the run"
OURS = (RUNNING, "noether/", "<noether ", "benchmarks/")

INEXACT = ("noether/spec/errors/words.py <genexpr>", "built-in method resource.getrusage")
"""Calls whose number differs: one for each character of printed seconds; the peak of the memory, by the clock."""

COMPILER = "torch/_dynamo/"

_PLAN = re.compile(r"<noether (\w+) \d+>")


class Calls:
    """Python calls of an update, built-in functions included.

    Args:
        run: Trains.
        first: Updates before the counted ones.
        last: Updates at the end of the counted ones.

    Attributes:
        edges: Calls by function that makes them and function that is called.
    """

    def __init__(self, run: Run, first: int = SPAN[0], last: int = SPAN[1]) -> None:
        profile = cProfile.Profile()
        with uncollected():
            run({first: profile.enable, last: profile.disable})
        self._updates = last - first
        self.edges = _edges(profile)

    @property
    def total(self) -> float:
        """All calls."""
        return round(sum(self.edges.values()) / self._updates, 2)

    def to(self, names: Iterable[str]) -> float:
        """Return the calls to functions with one of these names, but for the compiled calls of hooks."""
        wanted = set(names)
        found = (
            calls for (_, called), calls in self.edges.items() if called.split(" ")[-1] in wanted and called[0] != "<"
        )
        return round(sum(found) / self._updates, 2)

    def table(self) -> dict[str, float]:
        """Return the calls that our functions make, as `caller > called`."""
        shares = {edge: round(calls / self._updates, 2) for edge, calls in self.edges.items()}
        return {" > ".join(edge): share for edge, share in sorted(shares.items()) if share > 0 and ours(edge[0])}


class Tensors(TorchDispatchMode):
    """Counts tensor operations, results with memory of their own, and reads of values.

    Attributes:
        counts: The counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"operations": 0, "allocations": 0, "reads": 0}
        self._methods = Methods(self.counts)

    def __enter__(self) -> Tensors:
        """Begin to count."""
        self._methods.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Count no more."""
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        del types
        held = memories((args, kwargs))
        result = func(*args, **(kwargs or {}))
        self.counts["operations"] += 1
        self.counts["reads"] += is_read(func, args)
        self.counts["allocations"] += len(memories(result) - held)
        return result


class Methods(TorchFunctionMode):
    """Counts methods that read a tensor of the host: no operation is dispatched for them.

    Args:
        counts: The counts to add to.
    """

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one call of a function."""
        del types
        self._counts["reads"] += func in READING_METHODS
        return func(*args, **(kwargs or {}))


def memories(value: Any) -> set[int]:
    """Return the addresses of the memory of all tensors in arguments or results."""
    return {each.untyped_storage().data_ptr() for each in tree_iter(value) if isinstance(each, torch.Tensor)}


def tensor_counts(run: Run, first: int = SPAN[0], last: int = SPAN[1]) -> dict[str, float]:
    """Return the tensor operations, the allocations of tensor memory and the reads of values of an update."""
    mode = Tensors()
    with uncollected():
        run({first: mode.__enter__, last: lambda: mode.__exit__(None, None, None)})
    return {name: round(count / (last - first), 2) for name, count in mode.counts.items()}


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector off.

    It does not collect before: what others have left may wait for a thread or a process as it is deleted.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def warmed(run: Run) -> Run:
    """Run once, so that no import and no first use is counted."""
    run({4: lambda: None})
    return run


def ours(function: str) -> bool:
    """Return True for a function of the framework or of a benchmark."""
    return function.startswith(OURS)


def label(file: str, _line: int, function: str) -> str:
    """Return the name of a function without the lines and folders that differ between machines and versions."""
    if file == "~":
        return function.removeprefix("<").removesuffix(">").split(" at 0x")[0]
    plan = _PLAN.fullmatch(file)
    if plan:
        return f"<noether plan> {plan[1]}"
    parts = Path(file).parts
    for package in ("noether", "benchmarks", "torch"):
        if package in parts:
            last = len(parts) - 1 - parts[::-1].index(package)
            return f"{'/'.join(parts[last:])} {function}"
    return f"{parts[-1]} {function}"


def _edges(profile: cProfile.Profile) -> Counter[tuple[str, str]]:
    """Return all calls; functions that were running already when the count began have lost their name."""
    stats: Mapping[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # typeshed lacks it
    edges: Counter[tuple[str, str]] = Counter()
    for called, (_, calls, _, _, callers) in stats.items():
        edges[RUNNING, label(*called)] += calls - sum(number for number, *_ in callers.values())
        for caller, (number, *_) in callers.items():
            edges[label(*caller), label(*called)] += number
    for edge in list(edges):
        ends_the_count = any("/counting.py " in end or "_lsprof.Profiler" in end for end in edge)
        if ends_the_count or any(end in INEXACT for end in edge) or _is_of_the_compiler(*edge):
            del edges[edge]
    return +edges


def _is_of_the_compiler(caller: str, called: str) -> bool:
    """Return True for a call that torch's optimizers make more often once anything was compiled in a process."""
    return COMPILER in called or (COMPILER in caller and not called.startswith("torch/optim/"))
