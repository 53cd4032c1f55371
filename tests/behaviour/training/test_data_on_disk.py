"""A run on a file that stays on disk ends with the weights of the same run on the file in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import noether

Weights = Callable[[noether.Outcome], bytes]


def spec(kind: str, **options: Any) -> dict[str, Any]:
    data = {"kind": kind, "path": "data.npz", **options}
    return {
        "name": f"run-{kind}",
        "seed": 3,
        "datasets": {"train": {**data, "split": "train"}, "test": {**data, "split": "test"}},
        "transforms": [{"kind": "normalize", "properties": ["x", "y_target"]}],
        "model": {"kind": "mlp", "hidden": [4], "optimizer": {"kind": "AdamW", "lr": 0.01}},
        "trainer": {
            "kind": "weighted-loss",
            "max_epochs": 2,
            "effective_batch_size": 8,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "callbacks": [{"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}],
        },
        "trackers": [],
    }


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(100, 3))
    np.savez("data.npz", x=x + 1e6, y_target=(x**2).sum(1, keepdims=True))


def test_a_run_on_disk_ends_with_the_weights_of_one_in_memory(final_weights: Weights) -> None:
    memory, disk = (noether.run(spec(kind), quiet=True) for kind in ("file", "disk"))
    assert (memory.status, disk.status) == ("FINISHED", "FINISHED")
    assert final_weights(memory) == final_weights(disk)


def test_a_run_in_blocks_is_resumed_to_the_same_weights(final_weights: Weights) -> None:
    blocks = spec("disk", shuffle_block=4)
    whole = noether.run(blocks, quiet=True)
    noether.run(blocks, set={"trainer.max_epochs": 1}, run_id="cut", quiet=True)
    resumed = noether.run(blocks, run_id="cut", resume="auto", quiet=True)
    assert resumed.status == "FINISHED"
    assert final_weights(whole) == final_weights(resumed)
    assert final_weights(whole) != final_weights(noether.run(spec("disk"), quiet=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_ends_within_an_epoch_is_resumed_to_the_same_weights(final_weights: Weights, workers: int) -> None:
    started = {"loader": {"num_workers": workers, "start_method": "spawn"}} if workers else {}
    whole = noether.run(spec("disk"), quiet=True)
    cut = {"trainer.max_epochs": None, "trainer.max_updates": 13}  # of 20
    noether.run({**spec("disk"), **started}, set=cut, run_id="cut", quiet=True)
    resumed = noether.run({**spec("disk"), **started}, run_id="cut", resume="auto", quiet=True)
    assert resumed.status == "FINISHED", resumed.error
    assert final_weights(whole) == final_weights(resumed)
