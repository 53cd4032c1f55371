"""The cost of one update: `noether run` with its default callbacks compared with hand-written loops.

One unit of work is one update of an MLP 8 -> 32 -> 1 on a batch of 32 samples of float32, AdamW with its fused kernel.
The bare loop calls the same model with the same optimizer on batches that lie ready in memory; our side also counts,
looks for non-finite numbers, averages losses, takes times, writes metrics, and samples and gathers unless its batches
lie ready too. All end with the same weights, bit for bit. They take turns of some updates in one process, and the
median of the turns' ratios counts. Seconds are those that the thread has computed for, so that what else a machine does
counts less. Calls are counted by cProfile, built-in functions included, and are the same every time.

Our optimizer step and our backward pass call torch's kernels and engine without the wrappers around them. The loop "by
hand" does so for the optimizer: above it is the price of everything that a trainer adds, less torch's own calls around
the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.counting import Calls, warmed
from benchmarks.tiny import DRAWN, PROBE, InMemory, Ready, bare_loop, bare_run, beside, kind, mlp, our_run
from noether.core.callbacks.base import OneShotCallback

TURN, TURNS = 20, 100
EPOCHS = (64, 320)
"""Updates before and after the counted ones: four whole epochs."""
LOGGING, SILENT = {"track_every_n_updates": 1}, {"track_every_n_updates": 100_000}
pytestmark = pytest.mark.timeout(600)  # on a loaded machine; some seconds otherwise


class Quiet(OneShotCallback):
    """Overrides no hook that is called at every update."""


class Hot(OneShotCallback):
    """Overrides one hook that is called at every update, and does nothing in it."""

    def track_after_update_step(self, *, update_counter: Any, times: Any) -> None:
        pass


RATIOS: dict[type, float] = {Ready: 1.0, InMemory: 1.1}  # of the bare loop
CALLS_ABOVE: dict[type, float] = {Ready: -140.0, InMemory: -139.0}  # the bare loop
CALLS_ABOVE_BY_HAND: dict[type, float] = {Ready: 9.0, InMemory: 10.0}
BOUNDARY_CALLS, BOUNDARY_RATIO = 168.0, 60 / 111  # beyond those of its update; of an update of the bare loop
CALLBACKS = 20


LOOPS: dict[str, dict[str, bool]] = {
    "bare": {},
    "checked": {"checks": True},
    "by_hand": {"by_hand": True},
    "textbook": {"fused": False},
}


def measured(dataset: type, loops: tuple[str, ...] = ("bare",), **settings: Any) -> dict[str, float]:
    """Return the microseconds of an update, and how much they are above those of loops by hand."""
    timing = beside(
        {name: bare_loop(**LOOPS[name]) for name in loops}, turn=TURN, turns=TURNS, dataset=dataset, **settings
    )
    found = {f"{name}_us": min(seconds) * 1e6 for name, seconds in timing.seconds.items()}
    for name in loops:
        found |= {f"above_{name}": timing.above("ours", name), f"ratio_{name}": timing.ratio("ours", name)}
    return found


def best(measure: Callable[[], dict[str, float]], key: str, limit: float) -> dict[str, float]:
    """Return a measurement whose `key` is within its limit; the lowest of three if the machine hides it."""
    found = measure()
    for _ in range(2):
        if found[key] > limit:
            found = min(found, measure(), key=lambda each: each[key])
    return found


def calls(dataset: type, **settings: Any) -> float:
    """Return the calls of an update of a run, those between epochs included."""
    return Calls(warmed(our_run(dataset=dataset, **(SILENT | settings))), *EPOCHS).total - PROBE


def calls_of_loop(**options: Any) -> float:
    """Return the calls of an update of a loop by hand."""
    return Calls(warmed(bare_run(**options)), *EPOCHS).total - DRAWN


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("dataset", [Ready, InMemory])
def test_an_update_takes_no_longer_than_in_a_bare_loop(benchmark: BenchmarkFixture, dataset: type) -> None:
    """With batches that lie ready, and with our own sampling and gathering, the check of all gradients included."""
    measure = partial(measured, dataset, tuple(LOOPS))
    found = benchmark.pedantic(lambda: best(measure, "ratio_bare", RATIOS[dataset]), rounds=1)
    benchmark.extra_info |= found | {"ratios": {name: found[f"ratio_{name}"] for name in ("bare", "textbook")}}
    print(
        f"\nan update: {found['ours_us']:.1f} us;", ", ".join(f"{name} {found[f'above_{name}']:+.1f}" for name in LOOPS)
    )
    assert found["ratio_bare"] <= RATIOS[dataset]


@pytest.mark.parametrize("dataset", [Ready, InMemory])
def test_python_calls_of_an_update(benchmark: BenchmarkFixture, dataset: type) -> None:
    def count() -> dict[str, float]:
        ours = calls(dataset)
        return {f"calls_above_{name}": ours - calls_of_loop(**options) for name, options in LOOPS.items()}

    found = benchmark.pedantic(count, rounds=1)
    benchmark.extra_info |= found
    print("\nan update:", ", ".join(f"{name} {calls:+.1f}" for name, calls in found.items()))
    assert found["calls_above_bare"] <= CALLS_ABOVE[dataset]
    assert found["calls_above_by_hand"] <= CALLS_ABOVE_BY_HAND[dataset]


def test_python_calls_do_not_grow_with_the_model(benchmark: BenchmarkFixture) -> None:
    def count() -> dict[int, float]:
        def of(layers: int) -> float:
            ours = calls(Ready, model={"kind": "mlp", "hidden": [32] * layers})
            return ours - calls_of_loop(by_hand=True, make_model=partial(mlp, layers))

        return {layers: of(layers) for layers in (1, 4, 16)}

    above = benchmark.pedantic(count, rounds=1)
    benchmark.extra_info |= {f"{layers} layers": calls for layers, calls in above.items()}
    assert all(calls <= CALLS_ABOVE_BY_HAND[Ready] for calls in above.values())


def test_a_boundary_that_logs(benchmark: BenchmarkFixture) -> None:
    """The default metrics of a run that logs every update, beyond an update of one that logs none."""

    def measure() -> dict[str, float]:
        logging, silent = (measured(Ready, **log) for log in (LOGGING, SILENT))
        above = logging["ratio_bare"] - silent["ratio_bare"]
        return {"of_bare": above, "us": above * silent["bare_us"]}  # a difference: it varies too much for the gate

    found = benchmark.pedantic(lambda: best(measure, "of_bare", BOUNDARY_RATIO), rounds=1)
    benchmark.extra_info |= found | {"calls_of_boundary": (count := calls(Ready, **LOGGING) - calls(Ready))}
    print(f"\na boundary: {found['us']:.1f} us, {found['of_bare']:.2f} of a bare update, {count:.1f} calls")
    assert count <= BOUNDARY_CALLS
    assert found["of_bare"] <= BOUNDARY_RATIO


def test_callbacks_cost_a_call_each_if_they_have_a_hot_hook(benchmark: BenchmarkFixture) -> None:
    def several(kinds: type) -> list[dict[str, Any]]:
        return [{"kind": kind(kinds), "id": f"{kinds.__name__}-{number}".lower()} for number in range(CALLBACKS)]

    def count() -> dict[str, float]:
        none, quiet, hot = (calls(Ready, callbacks=given) for given in ([], several(Quiet), several(Hot)))
        return {"calls_quiet": (quiet - none) / CALLBACKS, "calls_hot": (hot - none) / CALLBACKS}

    found = benchmark.pedantic(count, rounds=1)
    given = {"none": [], "quiet": several(Quiet), "hot": several(Hot)}
    rounds = [{name: measured(Ready, callbacks=given[name]) for name in given} for _ in range(2)]
    ratios = {name: min(each[name]["ratio_bare"] for each in rounds) for name in given}
    for name in ("quiet", "hot"):
        found[f"us_{name}"] = (ratios[name] - ratios["none"]) * rounds[0]["none"]["bare_us"] / CALLBACKS
    benchmark.extra_info |= found
    print("\na callback:", ", ".join(f"{name} {value:+.2f}" for name, value in found.items()))
    assert abs(found["calls_quiet"]) * CALLBACKS < 0.5  # none of them is called
    assert found["calls_hot"] * CALLBACKS < CALLBACKS + 1.5  # one each, and one for the hook itself
