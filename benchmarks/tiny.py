"""The tiny problem that costs of an update are measured on: an MLP 8 -> 32 -> 1, 32 samples of float32, AdamW.

`noether run` with its default callbacks beside a loop as a user would write it, with the same optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import noether
from benchmarks.counting import Run
from noether.core.callbacks.base import CallbackBase
from noether.core.models.base import ModelBase
from noether.core.models.mlp import MLP, MLPConfig
from noether.data.randomness import permutation
from noether.kernel.progress import UpdateCounter

SAMPLES, BATCH, SEED = 2048, 32, 0
PACKAGE = "benchmarks"


def write_data(folder: Path) -> dict[str, torch.Tensor]:
    """Write `train.npz` into a folder; return its arrays as tensors."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(SAMPLES, n)).astype("float32") for name, n in (("x", 8), ("y_target", 1))}
    np.savez(folder / "train.npz", **arrays)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def spec(updates: int, *, model: Mapping[str, Any] | None = None, **trainer: Any) -> dict[str, Any]:
    """Return the spec of a run; logging is out of the way unless `trainer` says otherwise."""
    chosen = {"kind": "mlp", "hidden": [32]} if model is None else dict(model)
    return {
        "name": "bench",
        "seed": SEED,
        "threads": 1,
        "datasets": {"train": {"kind": "file", "path": "train.npz"}},
        "model": chosen | {"optimizer": {"kind": "AdamW", "decay_bias_and_norm": True}},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": updates,
            "effective_batch_size": BATCH,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "log_every_n_updates": 10_000,
            "track_every_n_updates": 50,
        }
        | trainer,
        "trackers": [{"kind": "noop"}],
    }


class Probe(CallbackBase):
    """Calls a function after the updates that it waits for; its hook costs two calls an update, `PROBE`."""

    waits: Mapping[int, Callable[[], object]]

    def track_after_update_step(self, *, update_counter: UpdateCounter, times: Any) -> None:
        if update_counter.update in self.waits:
            self.waits[update_counter.update]()


PROBE = 2


def our_run(*, callbacks: Sequence[Mapping[str, Any]] = (), **options: Any) -> Run:
    """Return a function that trains with our loop."""

    def run(waits: Mapping[int, Callable[[], object]]) -> None:
        Probe.waits = waits
        probe = {"kind": f"{Probe.__module__}.Probe"}
        outcome = noether.run(spec(max(waits), callbacks=[*callbacks, probe], **options), quiet=True, trust=[PACKAGE])
        assert outcome.error is None, outcome.error

    return run


def bare_run(held: Mapping[str, torch.Tensor], make_model: Callable[[], torch.nn.Module] | None = None) -> Run:
    """Return a function that trains by hand, on batches that lie ready."""

    def run(waits: Mapping[int, Callable[[], object]]) -> None:
        torch.manual_seed(SEED)
        model = mlp() if make_model is None else make_model()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        order = permutation(SAMPLES, SEED, 0).split(BATCH)
        batches = [(held["x"][indices], held["y_target"][indices]) for indices in order]
        for update in range(1, max(waits) + 1):
            x, y = batches[update - 1]
            loss = torch.nn.functional.mse_loss(model(x=x)["y"], y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if update in waits:
                waits[update]()

    return run


def mlp() -> ModelBase:
    """Return the model that the spec names, at its beginning."""
    return MLP(MLPConfig(kind="mlp", hidden=[32], in_features={"x": 8}, out_features={"y": 1}))


class ManyTensors(torch.nn.Module):
    """A linear map beside many single numbers, all of which get a gradient.

    Args:
        tensors: Number of parameters.
    """

    def __init__(self, tensors: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(8, 1))
        self.others = torch.nn.ParameterList(torch.zeros(1) for _ in range(tensors - 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = x @ self.weight
        return {"y": y + torch.cat(list(self.others)).sum() if len(self.others) else y}
