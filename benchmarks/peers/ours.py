"""`noether run` in one process: `python ours.py SIZE ready|path` prints its figures as JSON, as `frameworks.py` does.

It runs with its default callbacks. Its batches lie ready as those of the frameworks do, or it samples and gathers them
itself, which is what users have. The loop by hand always has its batches ready.
"""

from __future__ import annotations

import cProfile
import json
import os
import sys
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import noether
from noether.core.callbacks.base import CallbackBase
from noether.data.dataset import InMemoryDataset
from noether.data.randomness import permutation

sys.path.insert(0, str(Path(__file__).parent))

from work import SEED, SIZES, Bare, Size, calls_of, figures  # after the path that it is found in


def arrays(size: Size) -> dict[str, torch.Tensor]:
    """Return the samples: as many as one slice trains on."""
    rng = np.random.default_rng(SEED)
    widths = {"x": size.widths[0], "y_target": size.widths[-1]}
    drawn = {name: rng.normal(size=(size.batch * size.slice, n)).astype("float32") for name, n in widths.items()}
    return {name: torch.from_numpy(array) for name, array in drawn.items()}


def batches(size: Size, number: int) -> list[dict[str, torch.Tensor]]:
    """Return the batches of one slice, in the order of a run."""
    held, order = arrays(size), permutation(size.batch * size.slice, SEED, number).split(size.batch)
    return [{name: tensor[indices] for name, tensor in held.items()} for indices in order]


class Ready(InMemoryDataset):
    """Batches that lie ready, in the order in which the run asks for them; others are gathered."""

    size: Size

    def __init__(self) -> None:
        super().__init__(arrays(self.size))
        self._left = (batch for batch in [each for n in range(self.size.slices) for each in batches(self.size, n)])

    def __getitems__(self, indices: Any) -> Any:
        return next(self._left) if indices.shape[0] == self.size.batch else super().__getitems__(indices)


class Beside(CallbackBase):
    """Lets the loop by hand do each slice too, and times both; in the last one it counts calls."""

    size: Size
    bare: Bare
    seconds: list[tuple[float, float]]
    calls = 0.0
    started = 0.0
    profile = cProfile.Profile()

    def before_training(self, **_: Any) -> None:
        mine = type(self)
        mine.bare, mine.seconds = Bare(self.size), []
        for copied, weights in zip(mine.bare.model.parameters(), self.model.parameters(), strict=True):
            copied.data.copy_(weights)
        mine.started = process_time()

    def track_after_update_step(self, *, update_counter: Any, times: Any) -> None:
        if update_counter.update % self.size.slice == 0:
            with torch.enable_grad():
                self.after_slice(process_time(), update_counter.update // self.size.slice)

    def after_slice(self, ended: float, number: int) -> None:
        mine, size = type(self), self.size
        given = [(batch["x"], batch["y_target"]) for batch in batches(size, number - 1)]
        if number == size.slices:
            mine.profile.disable()
            by_hand = cProfile.Profile()
            by_hand.runcall(mine.bare.train, given)
            mine.calls = (calls_of(mine.profile) - calls_of(by_hand)) / size.slice
        else:
            begun = process_time()
            mine.bare.train(given)
            mine.seconds.append((ended - mine.started, process_time() - begun))
        mine.started = process_time()
        if number == size.slices - 1:
            mine.profile.enable()


def spec(size: Size, dataset: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of the work; a run takes the optimizer's fused kernel by itself."""
    optimizer = {"kind": "AdamW", "lr": 1e-3, "weight_decay": 1e-2, "decay_bias_and_norm": True}
    return {
        "name": "peers",
        "seed": SEED,
        "threads": 1,
        "datasets": {"train": dataset},
        "model": {"kind": "mlp", "hidden": list(size.widths[1:-1]), "optimizer": optimizer},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": size.updates,
            "effective_batch_size": size.batch,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "log_every_n_updates": 50,
            "callbacks": [{"kind": f"{Beside.__module__}.Beside"}],
        },
        "trackers": [{"kind": "noop"}],
    }


def measured(size: Size, way: str) -> dict[str, float]:
    """Return the figures of a run, in a folder of its own."""
    Beside.size = Ready.size = size
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        np.savez("train.npz", **{name: tensor.numpy() for name, tensor in arrays(size).items()})
        dataset = {"kind": f"{Ready.__module__}.Ready"} if way == "ready" else {"kind": "file", "path": "train.npz"}
        outcome = noether.run(spec(size, dataset), quiet=True, trust=["ours"])
        assert outcome.error is None, outcome.error
        weights = load_file(next((outcome.run_dir / "checkpoints").glob("step-*")) / "model.safetensors")
        os.chdir("/")
    expected = dict(Beside.bare.model.named_parameters())
    named = {".".join(name.split(".")[-2:]): tensor for name, tensor in weights.items()}  # number and kind
    equal = named.keys() == expected.keys() and all(torch.equal(named[name], expected[name]) for name in expected)
    return figures(Beside.seconds[1:], size.slice) | {"calls_above": Beside.calls, "equal": equal}


if __name__ == "__main__":
    import ours  # a spec names the callback by the module that it can import

    print(json.dumps(ours.measured(SIZES[sys.argv[1]], sys.argv[2])))
