"""Counts of an update are exact, and name the function that calls."""

from collections.abc import Callable, Mapping

import pytest
import torch

from benchmarks.counting import RUNNING, Calls, tensor_counts
from benchmarks.timing import in_turns


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


@pytest.mark.long  # it has hung once, in cProfile, after thousands of other tests in its process
def test_calls_are_those_of_an_update_with_their_callers():
    calls = Calls(trained(twice), 2, 6)
    assert calls.total == 3
    assert calls.table()[f"{RUNNING} > benchmarks/test_counting.py twice"] == 1
    assert calls.to(["twice"]) == 1
    assert calls.edges["benchmarks/test_counting.py twice", "built-in method builtins.len"] == 2 * 4


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


def test_the_ratio_of_two_ways_is_the_median_of_the_rounds():
    seconds = iter([9.0, 9.0, 2.0, 1.0, 3.0, 6.0, 1.0, 1.0])  # the order turns around in each round
    timing = in_turns({"one": lambda: next(seconds), "other": lambda: next(seconds)}, rounds=3)
    assert timing.seconds == {"one": [1.0, 3.0, 1.0], "other": [2.0, 6.0, 1.0]}
    assert timing.ratio("one", "other") == 0.5
