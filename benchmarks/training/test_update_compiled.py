"""The cost of one compiled update: `noether run` with `update = "compiled"` compared with the textbook loop.

The work is that of `test_update.py`: an MLP 8 -> 32 -> 1 on batches of 32 samples, AdamW, default callbacks. The
textbook loop has torch's default AdamW, and its batches lie ready in memory. Both agree within rounding, which is
looked at first. The two alternate in one process, some hundred updates each, and the quickest of each count.

The last file of its folder: torch's compiler, once imported, adds calls to every loop, which the others count.
"""

from __future__ import annotations

from collections.abc import Iterator
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
SLICE, SLICES, COMPARED = 200, 20, 64
RATIO = 0.4
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")


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
            "update": "compiled",
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


def textbook_loop(held: dict[str, Tensor]) -> Iterator[MLP]:
    """Train as a textbook does; yields the model before the first update, and after each."""
    torch.manual_seed(SEED)
    model = MLP(MLPConfig(kind="mlp", hidden=[32], in_features={"x": 8}, out_features={"y": 1}))
    optimizer = torch.optim.AdamW(model.parameters())
    epoch = 0
    yield model
    while True:
        order = permutation(SAMPLES, SEED, epoch).split(BATCH)
        batches = [(held["x"][indices], held["y_target"][indices]) for indices in order]
        for x, y in batches:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x=x)["y"], y)
            loss.backward()
            optimizer.step()
            yield model
        epoch += 1


class AlternatingWithTextbook(PeriodicCallback):
    """Lets the textbook loop do as many updates as the trainer has just done, and times both."""

    textbook: Iterator[MLP]
    ours_seconds: list[float]
    textbook_seconds: list[float]
    started = 0.0

    def before_training(self, **_: Any) -> None:
        type(self).started = thread_time()

    def periodic_callback(self, **_: Any) -> None:
        ended = thread_time()
        with torch.enable_grad():
            for _update in range(SLICE):
                next(self.textbook)
        done = thread_time()
        self.ours_seconds.append(ended - self.started)
        self.textbook_seconds.append(done - ended)
        type(self).started = thread_time()


def test_compiled_update_beside_the_textbook_loop(benchmark: BenchmarkFixture, held: dict[str, Tensor]) -> None:
    """A compiled update takes at most 0.4 of the time of the textbook loop, in the best of three runs."""
    require_agreement(held)

    def best() -> dict[str, float]:
        found = measured(held)
        for _ in range(2):  # more if the machine's other users hide it
            if found["ratio"] > RATIO:
                found = min(found, measured(held), key=lambda each: each["ratio"])
        return found

    found = benchmark.pedantic(best, rounds=1)
    benchmark.extra_info |= found
    ours, textbook = found["ours_us"], found["textbook_us"]
    print(f"\na compiled update: {ours:.1f} us, textbook loop {textbook:.1f} us: ratio {found['ratio']:.2f}")
    assert found["ratio"] <= RATIO


def require_agreement(held: dict[str, Tensor]) -> None:
    """Check that both have the same weights within rounding after some updates."""
    outcome = noether.run(spec(COMPARED), quiet=True)
    weights = load_file(next((outcome.run_dir / "checkpoints").glob("step-*")) / "model.safetensors")
    *_, model = islice(textbook_loop(held), COMPARED + 1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5)


def measured(held: dict[str, Tensor]) -> dict[str, float]:
    """Return the lowest microseconds of an update of both, and their ratio."""
    alternating = AlternatingWithTextbook
    alternating.textbook, alternating.ours_seconds, alternating.textbook_seconds = textbook_loop(held), [], []
    next(alternating.textbook)
    both = spec(SLICE * SLICES)
    both["trainer"]["callbacks"] = [
        {"kind": f"{alternating.__module__}.{alternating.__name__}", "every_n_updates": SLICE}
    ]
    outcome = noether.run(both, quiet=True, trust=[alternating.__module__.partition(".")[0]])
    assert outcome.error is None
    ours, textbook = (
        min(seconds) / SLICE * 1e6 for seconds in (alternating.ours_seconds, alternating.textbook_seconds)
    )
    return {"ours_us": ours, "textbook_us": textbook, "ratio": ours / textbook}
