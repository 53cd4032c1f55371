"""Counts of an update are exact, and name the function that calls."""

import gc
import resource
from collections.abc import Callable, Mapping
from itertools import count

import pytest
import torch

from benchmarks.counting import RUNNING, Calls, tensor_counts
from benchmarks.timing import BUDGET, in_turns

READS = {
    "if": lambda x: bool(x[0, 0]),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "mask": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x.clone()),
    "unique": lambda x: torch.unique(x),
    "unique rows": lambda x: torch.unique(x, dim=0),
    "unique_consecutive": lambda x: torch.unique_consecutive(x),
}


def trained(update: Callable[[], object]) -> Callable[[Mapping[int, Callable[[], object]]], None]:
    def run(waits: Mapping[int, Callable[[], object]]) -> None:
        for number in range(1, max(waits) + 1):
            update()
            if number in waits:
                waits[number]()

    return run


def twice() -> None:
    for _ in range(2):
        len(())


def test_calls_are_those_of_an_update_with_their_callers():
    calls = Calls(trained(twice), 2, 6)
    assert calls.total == 3
    assert calls.table()[f"{RUNNING} > benchmarks/test_counting.py twice"] == 1
    assert calls.to(["twice"]) == 1
    assert calls.edges["benchmarks/test_counting.py twice", "built-in method builtins.len"] == 2 * 4


class Leftover:
    """Garbage in a cycle, as an earlier test may have left it; deleting it could wait for a worker."""

    deleted = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        Leftover.deleted += 1


def test_garbage_that_others_have_left_is_not_deleted_while_calls_are_counted():
    def littered() -> None:
        twice()
        for _ in range(100):  # enough for the collector to run many times
            [[] for _ in range(1000)]

    before = Calls(trained(littered), 2, 6).total
    Leftover.deleted, _ = 0, [Leftover() for _ in range(50)]
    del _
    assert Calls(trained(littered), 2, 6).total == before
    assert Leftover.deleted == 0
    assert gc.isenabled()


def test_the_collector_is_on_again_after_a_run_that_failed():
    def fails(waits: object) -> None:
        raise OSError

    with pytest.raises(OSError):
        Calls(fails)
    assert gc.isenabled()


def test_what_the_clock_decides_is_not_counted():
    turns = count()

    def now_and_then() -> None:
        twice()
        if next(turns) % 3 == 0:
            resource.getrusage(resource.RUSAGE_SELF)

    assert Calls(trained(now_and_then), 1, 3).total == Calls(trained(now_and_then), 1, 3).total


def test_a_compiler_that_was_used_before_adds_no_calls():
    weights = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], fused=True)

    def update() -> None:
        weights.grad = torch.ones(3)
        optimizer.step()

    before = Calls(trained(update), 2, 6)
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
    after = Calls(trained(update), 2, 6)
    assert after.total == before.total
    assert after.to(["_fused_adam"]) == before.to(["_fused_adam"]) == 1


def test_tensors_with_memory_of_their_own_and_reads_are_counted():
    x = torch.zeros(3)
    found = {
        "new": tensor_counts(trained(lambda: x + 1), 1, 3),
        "in place": tensor_counts(trained(lambda: x.add_(1)), 1, 3),
        "view": tensor_counts(trained(lambda: x.view(3, 1)), 1, 3),
        "read": tensor_counts(trained(lambda: x[0].item()), 1, 3),
    }
    assert {name: counts["allocations"] for name, counts in found.items()} == {
        "new": 1, "in place": 0, "view": 0, "read": 0,
    }  # fmt: skip
    assert {name: counts["reads"] for name, counts in found.items()} == {"new": 0, "in place": 0, "view": 0, "read": 1}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_each_way_to_read_values_is_one_read(read):
    x = torch.ones(3, 3)
    assert tensor_counts(trained(lambda: read(x)), 1, 3)["reads"] == 1


def test_the_ratio_of_two_ways_is_the_median_of_the_rounds(monkeypatch):
    monkeypatch.setattr("benchmarks.timing.BUDGET", 0.0)
    seconds = iter([9.0, 9.0, 2.0, 1.0, 3.0, 6.0, 1.0, 1.0])  # the order turns around in each round
    timing = in_turns({"one": lambda: next(seconds), "other": lambda: next(seconds)}, rounds=3)
    assert timing.seconds == {"one": [1.0, 3.0, 1.0], "other": [2.0, 6.0, 1.0]}
    assert timing.ratio("one", "other") == 0.5


def test_turns_go_on_until_the_ratio_is_precise():
    noise = [1.0, 2.0] * 8 + [1.0] * 200
    seconds = iter(noise)
    timing = in_turns({"one": lambda: next(seconds), "other": lambda: 1.0}, rounds=15)
    assert len(timing.seconds["one"]) > 15
    assert timing.error("other", "one") <= 0.01
    assert timing.ratio("one", "other") == 1.0


def test_turns_end_when_their_time_is_spent(monkeypatch):
    now = count(0.0, BUDGET / 4)
    monkeypatch.setattr("benchmarks.timing.time.monotonic", lambda: next(now))
    noisy = count(1)
    timing = in_turns({"one": lambda: float(next(noisy)), "other": lambda: 1.0}, rounds=3)
    assert 3 <= len(timing.seconds["one"]) <= 8
