"""Models of other packages, trained by dotted path; .ci/full runs them where the packages are installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

from noether.checkpoint.paths import checkpoint_folders
from noether.checkpoint.saved import SavedCheckpoint
from noether.cli.main import main

SAMPLES, UPDATES = 12, 4
EMA = {"kind": "ema", "every_n_updates": 2, "target_factors": [0.5]}
LOSS = {"kind": "offline-loss", "every_n_updates": 2, "dataset_key": "test"}
AdamW = {"kind": "AdamW", "lr": 0.01, "clip_grad_norm": 1.0}

try:
    import torchvision  # noqa: F401
except ImportError:
    pass
except RuntimeError:  # that of the index is built for CUDA, and its operators do not load beside a torch for CPUs
    for _operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")


@pytest.fixture
def command(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command `noether` to a good end and return what it printed."""

    def call(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["noether", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        return printed.out

    return call


@pytest.fixture
def project(workplace: Path) -> Iterator[Path]:
    """The working folder as a project; modules written there can be named by a spec."""
    path, known = list(sys.path), set(sys.modules)
    yield workplace
    sys.path[:] = path
    for name in [name for name in sys.modules.keys() - known if (workplace / f"{name}.py").exists()]:
        del sys.modules[name]


@pytest.fixture
def trained(command: Callable[..., str], project: Path) -> Callable[..., SavedCheckpoint]:
    """Train a model straight and interrupted, evaluate it, and return its checkpoint.

    The data are arrays by property, or the table of a data set. Both runs have to end with the same bytes, and the
    evaluation with the loss of the run.
    """

    def train(
        model: dict[str, Any], data: dict[str, Any], trainer: dict[str, Any], *options: str, workers: int = 0
    ) -> SavedCheckpoint:
        if "kind" not in data:
            np.savez(project / "data.npz", **data)
            data = {"kind": "file", "path": "data.npz"}
        settings = {
            "kind": "weighted-loss",
            "max_updates": UPDATES,
            "effective_batch_size": 4,
            "callbacks": [EMA, LOSS],
        }
        spec = {"spec": 1, "name": "packages", "device": "cpu", "threads": 1, "trackers": [{"kind": "noop"}]}
        spec |= {"datasets": {"train": data, "test": data}, "model": {"optimizer": AdamW, **model}}
        spec["loader"] = {"num_workers": workers}
        (project / "spec.toml").write_text(tomli_w.dumps({**spec, "trainer": settings | trainer}))
        command("check", "spec.toml", "--deep", *options)
        command("run", "spec.toml", "--run-id", "straight", *options)
        command("run", "spec.toml", "--run-id", "mine", "-s", f"trainer.max_updates={UPDATES // 2}", *options)
        command("resume", "mine", "-s", f"trainer.max_updates={UPDATES}", *options)
        straight, mine = (
            checkpoint_folders(project / "runs" / run / "checkpoints")[-1] for run in ("straight", "mine")
        )
        for name in ("model.safetensors", "optimizer.safetensors", "callbacks/ema/0.5.safetensors"):
            assert (straight / name).read_bytes() == (mine / name).read_bytes(), name
        command("eval", "straight", *options)
        assert _loss(next((project / "runs/straight/evaluations").glob("*/metrics.jsonl"))) == _loss(
            project / "runs/straight/metrics.jsonl"
        )
        return SavedCheckpoint.open(straight)

    return train


def _loss(metrics: Path) -> float:
    lines = [json.loads(line)["metrics"] for line in metrics.read_text().splitlines()]
    return float([line["loss/test/total"] for line in lines if "loss/test/total" in line][-1])
