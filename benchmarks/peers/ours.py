"""`noether run` in one process: `python ours.py SIZE` prints its figures as JSON, as `frameworks.py` does.

It runs with its default callbacks, and samples and gathers its batches itself: no path that only this file takes. The
loop by hand has its batches ready.
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
from noether.core.callbacks.periodic import PeriodicCallback
from noether.data.randomness import permutation

sys.path.insert(0, str(Path(__file__).parent))

from work import SEED, SIZES, Bare, Size, _calls, figures  # after the path that it is found in


class Beside(PeriodicCallback):
    """After each slice the loop by hand does the same updates, and both are timed."""

    size: Size
    arrays: dict[str, torch.Tensor]
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

    def periodic_callback(self, *, update_counter: Any, **_: Any) -> None:
        ended, mine, size = process_time(), type(self), self.size
        number = update_counter.update // size.slice
        order = permutation(size.batch * size.slice, SEED, number - 1).split(size.batch)
        batches = [(self.arrays["x"][indices], self.arrays["y_target"][indices]) for indices in order]
        if number == size.slices - 1:  # counted, not timed
            mine.profile.disable()
            by_hand = cProfile.Profile()
            with torch.enable_grad():
                by_hand.runcall(mine.bare.train, batches)
            mine.calls = (_calls(mine.profile) - _calls(by_hand)) / size.slice
        else:
            begun = process_time()
            with torch.enable_grad():
                mine.bare.train(batches)
            mine.seconds.append((ended - mine.started, process_time() - begun))
        mine.started = process_time()
        if number == size.slices - 2:
            mine.profile.enable()


def spec(size: Size) -> dict[str, Any]:
    """Return the spec of the work."""
    optimizer = {"kind": "AdamW", "lr": 1e-3, "weight_decay": 1e-2, "decay_bias_and_norm": True}
    return {
        "name": "peers",
        "seed": SEED,
        "threads": 1,
        "datasets": {"train": {"kind": "file", "path": "train.npz"}},
        "model": {"kind": "mlp", "hidden": list(size.widths[1:-1]), "optimizer": optimizer},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": size.updates,
            "effective_batch_size": size.batch,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "log_every_n_updates": 50,
            "callbacks": [{"kind": f"{Beside.__module__}.Beside", "every_n_updates": size.slice}],
        },
        "trackers": [{"kind": "noop"}],
    }


def measured(size: Size) -> dict[str, float]:
    """Return the figures of a run, in a folder of its own."""
    rng = np.random.default_rng(SEED)
    widths = {"x": size.widths[0], "y_target": size.widths[-1]}
    arrays = {name: rng.normal(size=(size.batch * size.slice, n)).astype("float32") for name, n in widths.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        np.savez("train.npz", **arrays)
        Beside.size, Beside.arrays = size, {name: torch.from_numpy(array) for name, array in arrays.items()}
        outcome = noether.run(spec(size), quiet=True, trust=["ours"])
        assert outcome.error is None, outcome.error
        weights = load_file(next((outcome.run_dir / "checkpoints").glob("step-*")) / "model.safetensors")
        os.chdir("/")
    expected = dict(Beside.bare.model.named_parameters())
    named = {".".join(name.split(".")[-2:]): tensor for name, tensor in weights.items()}  # number and kind
    equal = named.keys() == expected.keys() and all(torch.equal(named[name], expected[name]) for name in expected)
    return figures(Beside.seconds[1:], size.slice) | {"calls_above": Beside.calls, "equal": equal}


if __name__ == "__main__":
    import ours  # a spec names the callback by the module that it can import

    print(json.dumps(ours.measured(SIZES[sys.argv[1]])))
