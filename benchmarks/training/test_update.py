"""The cost of one update: `noether run` with its default callbacks compared with a hand-written loop.

One unit of work is one update of an MLP 8 -> 32 -> 1 on a batch of 32 samples of float32, AdamW with its fused kernel.
The bare loop calls the same model with the same optimizer on batches that lie ready in memory; our side also samples,
gathers, counts, looks for non-finite numbers, averages losses, takes times and writes metrics. Both end with the same
weights, bit for bit. The two alternate in one process, some hundred updates each, and the quickest of each count.
Seconds are those that the thread has computed for, so that what else a machine does counts less.

The goal of 40 µs was set on a machine whose bare loop takes 111 µs; on others it is the ratio that can be compared.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Iterator
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
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.models.mlp import MLP, MLPConfig
from noether.data.randomness import permutation

SAMPLES, BATCH, SEED = 2048, 32, 0
SLICE, SLICES = 200, 30
RATIO = 1 + 40 / 111
CALLS_ABOVE = 40.0


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(SAMPLES, n)).astype("float32") for name, n in (("x", 8), ("y_target", 1))}
    np.savez(tmp_path / "train.npz", **arrays)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def spec(updates: int) -> dict[str, Any]:
    return {
        "name": "bench",
        "seed": SEED,
        "threads": 1,
        "datasets": {"train": {"kind": "file", "path": "train.npz"}},
        "model": {"kind": "mlp", "hidden": [32], "optimizer": {"kind": "AdamW", "decay_bias_and_norm": True}},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": updates,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "log_every_n_updates": 1000,
            "track_every_n_updates": 50,
        },
        "trackers": [{"kind": "noop"}],
    }


def bare_loop(held: dict[str, Tensor]) -> Iterator[MLP]:
    """Train as a user would by hand; yields the model before the first update, and after each."""
    torch.manual_seed(SEED)
    model = MLP(MLPConfig(kind="mlp", hidden=[32], in_features={"x": 8}, out_features={"y": 1}))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    epoch = 0
    yield model
    while True:
        order = permutation(SAMPLES, SEED, epoch).split(BATCH)
        batches = [(held["x"][indices], held["y_target"][indices]) for indices in order]
        for x, y in batches:
            loss = torch.nn.functional.mse_loss(model(x=x)["y"], y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield model
        epoch += 1


class Alternating(PeriodicCallback):
    """Lets the bare loop do as many updates as the trainer has just done, and times both."""

    bare: Iterator[MLP]
    ours_seconds: list[float]
    bare_seconds: list[float]
    started = 0.0

    def before_training(self, **_: Any) -> None:
        type(self).started = thread_time()

    def periodic_callback(self, **_: Any) -> None:
        ended = thread_time()
        with torch.enable_grad():
            for _update in range(SLICE):
                next(self.bare)
        done = thread_time()
        self.ours_seconds.append(ended - self.started)
        self.bare_seconds.append(done - ended)
        type(self).started = thread_time()


def test_update_beside_the_bare_loop(benchmark: BenchmarkFixture, held: dict[str, Tensor]) -> None:
    """An update takes at most 1.36 times as long as in the bare loop, in the best of three runs."""

    def best() -> dict[str, float]:
        found = measured(held)
        for _ in range(2):  # more if the machine's other users hide it
            if found["ratio"] > RATIO:
                found = min(found, measured(held), key=lambda each: each["ratio"])
        return found

    found = benchmark.pedantic(best, rounds=1)
    benchmark.extra_info |= found
    ours, bare = found["ours_us"], found["bare_us"]
    print(f"\nan update: {ours:.1f} us, bare loop {bare:.1f} us: {ours - bare:+.1f} us, ratio {found['ratio']:.2f}")
    assert found["ratio"] <= RATIO


def measured(held: dict[str, Tensor]) -> dict[str, float]:
    """Return the lowest microseconds of an update of both, and their ratio; check that both end with the same bits."""
    Alternating.bare, Alternating.ours_seconds, Alternating.bare_seconds = bare_loop(held), [], []
    bare_model = next(Alternating.bare)
    with_bare_loop = spec(SLICE * SLICES)
    with_bare_loop["trainer"]["callbacks"] = [
        {"kind": f"{Alternating.__module__}.Alternating", "every_n_updates": SLICE}
    ]
    outcome = noether.run(with_bare_loop, quiet=True, trust=[Alternating.__module__.partition(".")[0]])
    assert outcome.error is None
    weights = load_file(next((outcome.run_dir / "checkpoints").glob("step-*")) / "model.safetensors")
    for name, tensor in bare_model.state_dict().items():
        assert torch.equal(weights[name], tensor), f"{name} differs from the bare loop"
    ours, bare = (min(seconds) / SLICE * 1e6 for seconds in (Alternating.ours_seconds, Alternating.bare_seconds))
    return {"ours_us": ours, "bare_us": bare, "us_above": ours - bare, "ratio": ours / bare}


def test_python_calls_of_an_update(benchmark: BenchmarkFixture, held: dict[str, Tensor]) -> None:
    """Function calls of an update above the bare loop, built-in ones included: at most 40, and the same every time."""

    def ours(updates: int) -> None:
        noether.run(spec(updates), quiet=True)

    def bare(updates: int) -> None:
        for _ in islice(bare_loop(held), updates + 1):
            pass

    ours(10)  # imports
    above = benchmark.pedantic(lambda: calls_per_update(ours) - calls_per_update(bare), rounds=1)
    benchmark.extra_info["calls_above"] = above
    print(f"\nan update: {above:+.1f} calls above the bare loop")
    assert above <= CALLS_ABOVE


def calls_per_update(run: Callable[[int], None]) -> float:
    """Return the calls of an update as the difference of two run lengths, so that nothing else counts."""
    short, long = (_calls(run, updates) for updates in (256, 1280))
    return (long - short) / (1280 - 256)


def _calls(run: Callable[[int], None], updates: int) -> int:
    profile = cProfile.Profile()
    profile.runcall(run, updates)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined,no-any-return]  # typeshed lacks it
