"""The cost of one update: `noether run` with its default callbacks compared with hand-written loops.

One unit of work is one update of an MLP 8 -> 32 -> 1 on a batch of 32 samples of float32, AdamW with its fused kernel.
The bare loop calls the same model with the same optimizer on batches that lie ready in memory; our side also counts,
looks for non-finite numbers, averages losses, takes times, writes metrics, and samples and gathers unless its batches
lie ready too. All end with the same weights, bit for bit. They alternate in one process, some hundred updates each, and
the quickest of each count. Seconds are those that the thread has computed for, so that what else a machine does counts
less. Calls are counted by cProfile, built-in functions included, and are the same every time.

Our optimizer step and our backward pass call torch's kernels and engine without the wrappers around them. The loop "by
hand" does so for the optimizer: above it is the price of everything that a trainer adds, less torch's own calls around
the backward pass.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import load_file
from torch import Tensor

import noether
from noether.core.callbacks.base import OneShotCallback
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.mlp import MLP, MLPConfig
from noether.data.dataset import InMemoryDataset
from noether.data.randomness import permutation

SAMPLES, BATCH, SEED = 2048, 32, 0
SLICE, SLICES = 100, 20
NEVER = 100_000
pytestmark = pytest.mark.timeout(600)  # on a loaded machine; some seconds otherwise


@cache
def arrays() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=(SAMPLES, n)).astype("float32") for name, n in (("x", 8), ("y_target", 1))}
    return {name: torch.from_numpy(array) for name, array in drawn.items()}


@cache
def ready() -> list[dict[str, Tensor]]:
    """Return the batches of the longest run, in its order."""
    orders = (permutation(SAMPLES, SEED, epoch) for epoch in range(SLICE * SLICES * BATCH // SAMPLES + 1))
    batches = (indices for order in orders for indices in order.split(BATCH))
    return [{name: tensor[indices] for name, tensor in arrays().items()} for indices in batches]


class InMemory(InMemoryDataset):
    """Samples in memory."""

    def __init__(self) -> None:
        super().__init__(arrays())


class Ready(InMemoryDataset):
    """Batches that lie ready, in the order in which a run asks for them; others are gathered."""

    def __init__(self) -> None:
        super().__init__(arrays())
        self._left = iter(ready())

    def __getitems__(self, indices: Any) -> Any:
        return next(self._left) if indices.shape[0] == BATCH else super().__getitems__(indices)


class Quiet(OneShotCallback):
    """Overrides no hook that is called at every update."""


class Hot(OneShotCallback):
    """Overrides one hook that is called at every update, and does nothing in it."""

    def track_after_update_step(self, *, update_counter: Any, times: Any) -> None:
        pass


RATIOS: dict[type, float] = {Ready: 1.0, InMemory: 1.1}  # of the bare loop
CALLS_ABOVE: dict[type, float] = {Ready: -148.0, InMemory: -147.0}  # the bare loop
CALLS_ABOVE_BY_HAND: dict[type, float] = {Ready: 11.0, InMemory: 12.0}
BOUNDARY_CALLS, BOUNDARY_RATIO = 162.0, 60 / 111  # beyond those of its update; of an update of the bare loop
CALLBACKS = 20


def kind(component: type) -> str:
    return f"{component.__module__}.{component.__name__}"


def spec(
    updates: int,
    dataset: type = InMemory,
    *,
    log: int = 50,
    callbacks: list[dict[str, Any]] | None = None,
    layers: int = 1,
) -> Any:
    return {
        "name": "bench",
        "seed": SEED,
        "threads": 1,
        "datasets": {"train": {"kind": kind(dataset)}},
        "model": {"kind": "mlp", "hidden": [32] * layers, "optimizer": {"kind": "AdamW", "decay_bias_and_norm": True}},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": updates,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "log_every_n_updates": NEVER,
            "track_every_n_updates": log,
            "callbacks": callbacks or [],
        },
        "trackers": [{"kind": "noop"}],
    }


def run(table: dict[str, Any]) -> Path:
    outcome = noether.run(table, quiet=True, trust=[__name__.partition(".")[0]])
    assert outcome.error is None
    return outcome.run_dir


def bare_loop(*, layers: int = 1, checks: bool = False, by_hand: bool = False, fused: bool = True) -> Iterator[MLP]:
    """Train as a user would; yields the model before the first update, and after each.

    Args:
        layers: Hidden layers of the model.
        checks: Look for numbers that are not finite as well.
        by_hand: Call the kernels of the optimizer, and release the gradients, without torch's wrappers.
        fused: Use the optimizer's fused kernel, which a run does; False is the loop of textbooks, with other roundings.
    """
    torch.manual_seed(SEED)
    model = MLP(MLPConfig(kind="mlp", hidden=[32] * layers, in_features={"x": 8}, out_features={"y": 1}))
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused or None)
    weights = list(model.parameters())
    found, one = torch.zeros(()), torch.ones(())
    kernel = None
    yield model
    for batch in ready():
        loss = torch.nn.functional.mse_loss(model(x=batch["x"])["y"], batch["y_target"])
        loss.backward()
        if checks:
            gradients = [weight.grad for weight in weights]
            torch._amp_foreach_non_finite_check_and_unscale_([*gradients, loss.detach()], found, one)
            assert not found
        if kernel is None:
            optimizer.step()
            optimizer.zero_grad()
            kernel = kernel_of(optimizer, weights) if by_hand else None
        else:
            kernel()
        yield model


def kernel_of(optimizer: torch.optim.AdamW, weights: list[Tensor]) -> Callable[[], None]:
    averages, squares, steps = (
        [optimizer.state[weight][entry] for weight in weights] for entry in ("exp_avg", "exp_avg_sq", "step")
    )
    (group,) = optimizer.param_groups
    options = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
    options["beta1"], options["beta2"] = group["betas"]
    ones = [torch.ones(())] * len(weights)

    def kernel() -> None:
        with torch.no_grad():
            torch._foreach_add_(steps, ones)
            gradients = [weight.grad for weight in weights]
            torch._fused_adamw_(weights, gradients, averages, squares, [], steps, **options)
        for weight in weights:
            weight.grad = None

    return kernel


class Alternating(PeriodicCallback):
    """Lets the bare loops do as many updates as the trainer has just done, and times all."""

    loops: dict[str, Iterator[MLP]]
    seconds: dict[str, list[float]]
    started = 0.0

    def before_training(self, **_: Any) -> None:
        type(self).started = thread_time()

    def periodic_callback(self, **_: Any) -> None:
        self.seconds["ours"].append(thread_time() - self.started)
        for name, loop in self.loops.items():
            began = thread_time()
            with torch.enable_grad():
                for _update in range(SLICE):
                    next(loop)
            self.seconds[name].append(thread_time() - began)
        type(self).started = thread_time()


LOOPS: dict[str, dict[str, bool]] = {
    "bare": {},
    "checked": {"checks": True},
    "by_hand": {"by_hand": True},
    "textbook": {"fused": False},
}


def measured(dataset: type = InMemory, loops: tuple[str, ...] = ("bare",), **settings: Any) -> dict[str, Any]:
    """Return the lowest microseconds of an update of all; check that all end with the same bits, or numbers."""
    Alternating.loops = {name: bare_loop(**LOOPS[name]) for name in loops}
    Alternating.seconds = {name: [] for name in ("ours", *loops)}
    models = {name: next(loop) for name, loop in Alternating.loops.items()}
    callbacks = [*settings.pop("callbacks", []), {"kind": kind(Alternating), "every_n_updates": SLICE}]
    folder = run(spec(SLICE * SLICES, dataset, callbacks=callbacks, **settings))
    weights = load_file(next((folder / "checkpoints").glob("step-*")) / "model.safetensors")
    for loop, model in models.items():
        for name, tensor in model.state_dict().items():
            roundings = {"rtol": 1e-3, "atol": 1e-4} if loop == "textbook" else {"rtol": 0.0, "atol": 0.0}
            torch.testing.assert_close(weights[name], tensor, **roundings, msg=f"{name} differs from the loop '{loop}'")
    lowest = {name: min(seconds) / SLICE * 1e6 for name, seconds in Alternating.seconds.items()}
    return {f"{name}_us": us for name, us in lowest.items()} | {
        f"{what}_{name}": value
        for name in loops
        for what, value in (("above", lowest["ours"] - lowest[name]), ("ratio", lowest["ours"] / lowest[name]))
    }


def best(measure: Callable[[], dict[str, Any]], key: str, limit: float) -> dict[str, Any]:
    """Return a measurement whose `key` is within its limit; the lowest of three if the machine hides it."""
    found = measure()
    for _ in range(2):
        if found[key] > limit:
            found = min(found, measure(), key=lambda each: each[key])
    return found


def calls_per_update(work: Callable[[int], object]) -> float:
    """Return the calls of an update as the difference of two run lengths, so that nothing else counts."""
    _calls(work, 100)  # what comes once
    short, long = (_calls(work, updates) for updates in (256, 1280))
    return (long - short) / (1280 - 256)


def _calls(work: Callable[[int], object], updates: int) -> int:
    profile = cProfile.Profile()
    profile.runcall(work, updates)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined,no-any-return]  # typeshed lacks it


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
        ours = calls_per_update(lambda updates: run(spec(updates, dataset, log=NEVER)))
        return {f"calls_above_{name}": ours - calls_of_loop(**options) for name, options in LOOPS.items()}

    found = benchmark.pedantic(count, rounds=1)
    benchmark.extra_info |= found
    print("\nan update:", ", ".join(f"{name} {calls:+.1f}" for name, calls in found.items()))
    assert found["calls_above_bare"] <= CALLS_ABOVE[dataset]
    assert found["calls_above_by_hand"] <= CALLS_ABOVE_BY_HAND[dataset]


def test_python_calls_do_not_grow_with_the_model(benchmark: BenchmarkFixture) -> None:
    def count() -> dict[int, float]:
        def of(layers: int) -> float:
            ours = calls_per_update(lambda updates: run(spec(updates, Ready, log=NEVER, layers=layers)))
            return ours - calls_of_loop(by_hand=True, layers=layers)

        return {layers: of(layers) for layers in (1, 4, 16)}

    above = benchmark.pedantic(count, rounds=1)
    benchmark.extra_info |= {f"{layers} layers": calls for layers, calls in above.items()}
    assert all(calls <= CALLS_ABOVE_BY_HAND[Ready] for calls in above.values())


def calls_of_loop(**options: Any) -> float:
    return calls_per_update(lambda updates: list(islice(map(id, bare_loop(**options)), updates + 1)))


def test_a_boundary_that_logs(benchmark: BenchmarkFixture) -> None:
    """The default metrics of a run that logs every update, beyond an update of one that logs none."""

    def measure() -> dict[str, float]:
        logging, silent = (measured(Ready, log=log) for log in (1, NEVER))
        above = logging["ratio_bare"] - silent["ratio_bare"]
        return {"of_bare": above, "us": above * silent["bare_us"]}  # a difference: it varies too much for the gate

    def count() -> float:
        def of(log: int) -> float:
            return calls_per_update(lambda updates: run(spec(updates, Ready, log=log)))

        return of(1) - of(NEVER)

    found = benchmark.pedantic(lambda: best(measure, "of_bare", BOUNDARY_RATIO), rounds=1)
    benchmark.extra_info |= found | {"calls_of_boundary": (calls := count())}
    print(f"\na boundary: {found['us']:.1f} us, {found['of_bare']:.2f} of a bare update, {calls:.1f} calls")
    assert calls <= BOUNDARY_CALLS
    assert found["of_bare"] <= BOUNDARY_RATIO


def test_callbacks_cost_a_call_each_if_they_have_a_hot_hook(benchmark: BenchmarkFixture) -> None:
    def several(kinds: type) -> list[dict[str, Any]]:
        return [{"kind": kind(kinds), "id": f"{kinds.__name__}-{number}".lower()} for number in range(CALLBACKS)]

    def count() -> dict[str, float]:
        def of(given: list[dict[str, Any]]) -> float:
            return calls_per_update(lambda updates: run(spec(updates, Ready, log=NEVER, callbacks=given)))

        none, quiet, hot = map(of, ([], several(Quiet), several(Hot)))
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
