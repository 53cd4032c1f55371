"""Noether beside the trainer of neuraloperator: the same model, loss, optimizer, data and number of updates.

Both train what `specs/darcy.toml` says, in turns and in one process, and evaluate at 16 x 16 and 32 x 32 points after
each epoch. neuraloperator's half is put together as in its example of Darcy flow. From the top of the repository:

    noether neuralop-data data
    python plugins/noether-plugin-neuralop/benchmarks/side_by_side.py --seeds 5

The schedules differ as the two trainers do: a cosine by update, and by epoch. So do the starting weights, which each
draws from its seed in its own way, and weight decay, which Noether does not apply to biases.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import tomllib
from pathlib import Path
from time import process_time
from typing import Any

import torch
from neuralop import LpLoss, Trainer
from neuralop.data.datasets.tensor_dataset import TensorDataset
from neuralop.data.transforms.data_processors import DefaultDataProcessor
from neuralop.data.transforms.normalizers import UnitGaussianNormalizer
from neuralop.losses import H1Loss
from neuralop.models import FNO
from noether_plugin_neuralop.data import DarcyConfig, DarcyDataset
from torch.utils.data import DataLoader

import noether
from noether.core.callbacks import PeriodicCallback

SPEC = Path(__file__).parents[3] / "specs" / "darcy.toml"
LOSSES = {"h1": H1Loss, "lp": LpLoss}
MOMENTS: list[float] = []
"""Seconds of processor time at the end of each epoch of the run that goes on; other processes do not count."""


class Clock(PeriodicCallback):
    """Notes when an epoch has ended, evaluation included."""

    calls_model = False

    def periodic_callback(self, **_: Any) -> None:
        """Note the time."""
        MOMENTS.append(process_time())


class TimedTrainer(Trainer):
    """neuraloperator's trainer; notes when an epoch begins."""

    def on_epoch_start(self, epoch: int) -> None:
        """Note the time."""
        MOMENTS.append(process_time())
        super().on_epoch_start(epoch)


def tables(epochs: int | None) -> dict[str, Any]:
    """Return the spec of both halves: the shipped one, with evaluations at the same moments and a clock.

    Args:
        epochs: Epochs other than those of the spec.
    """
    spec = tomllib.loads(SPEC.read_text(encoding="utf-8"))
    for data in spec["datasets"].values():
        data["folder"] = str(SPEC.parent / data["folder"])
    evaluations = [
        {"kind": "offline-metrics", "every_n_epochs": 1, "dataset_key": key, "metrics": {"pressure": ["relative-l2"]}}
        for key in ("test", "test32")
    ]
    spec["trainer"]["callbacks"] = [*evaluations, {"kind": "__main__.Clock", "every_n_epochs": 1}]
    spec["trainer"]["max_epochs"] = epochs or spec["trainer"]["max_epochs"]
    del spec["expect"]
    return {**spec, "threads": 1, "trackers": [{"kind": "noop"}]}


def with_noether(seed: int, spec: dict[str, Any]) -> dict[str, float]:
    """Return errors, and processor seconds an epoch, of one run with Noether."""
    MOMENTS.clear()
    with tempfile.TemporaryDirectory() as folder:
        outcome = noether.run({**spec, "seed": seed, "output": folder}, quiet=True)
    if outcome.error is not None:
        raise outcome.error
    found = {size: outcome.metrics[f"relative-l2/{key}/pressure"] for size, key in (("16", "test"), ("32", "test32"))}
    return {**found, "seconds": (MOMENTS[-1] - MOMENTS[0]) / (len(MOMENTS) - 1)}


def with_neuralop(seed: int, spec: Any) -> dict[str, float]:
    """Return errors, and processor seconds an epoch, of one run with neuraloperator's own trainer."""
    MOMENTS.clear()
    torch.manual_seed(seed)
    folder, epochs, batch = spec.datasets["train"].folder, spec.trainer.max_epochs, spec.trainer.effective_batch_size
    train, processor = fields(folder, "train", 16), DefaultDataProcessor(out_normalizer=None)
    processor.out_normalizer = UnitGaussianNormalizer(dim=[0, 1, 2, 3])
    processor.out_normalizer.fit(train.y)
    options = spec.model.optimizer.arguments()
    model = FNO(**spec.model.arguments())
    optimizer = torch.optim.AdamW(model.parameters(), lr=options["lr"], weight_decay=options["weight_decay"])
    trainer = TimedTrainer(model=model, n_epochs=epochs, data_processor=processor)
    tests = {size: DataLoader(fields(folder, "test", size), batch_size=batch) for size in (16, 32)}
    errors = trainer.train(
        train_loader=DataLoader(train, batch_size=batch, shuffle=True),
        test_loaders=tests,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs),
        training_loss=LOSSES[spec.trainer.loss_fn.kind](d=2),
        eval_losses={"l2": LpLoss(d=2, p=2)},
    )
    seconds = (process_time() - MOMENTS[1]) / (epochs - 1)  # MOMENTS[1] is the end of the first epoch
    return {"16": float(errors["16_l2"]), "32": float(errors["32_l2"]), "seconds": seconds}


def fields(folder: str, split: str, resolution: int) -> Any:
    """Return Darcy flow as neuraloperator's own data sets give it: samples with `x` and `y`."""
    config = DarcyConfig(kind="darcy", folder=folder, split=split, resolution=resolution)
    found = DarcyDataset(config).properties
    return TensorDataset(found["permeability"], found["pressure_target"])


def main() -> None:
    """Train each seed with both, print what came out, and write it to a file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--epochs", type=int, help="other than those of the spec")
    options.add_argument("--json", type=Path, help="file for all figures")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    spec = tables(chosen.epochs)
    loaded = noether.load_spec(spec).spec
    rows = []
    print("seed  trainer         16 x 16  32 x 32  s an epoch", flush=True)
    for seed in range(chosen.seeds):
        halves = {"noether": lambda: with_noether(seed, spec), "neuraloperator": lambda: with_neuralop(seed, loaded)}  # noqa: B023
        for name in list(halves) if seed % 2 else reversed(halves):
            row = {"seed": seed, "trainer": name, **halves[name]()}
            rows.append(row)
            print(f"{seed:4}  {name:14}  {row['16']:7.4f}  {row['32']:7.4f}  {row['seconds']:10.2f}", flush=True)
            if chosen.json:
                chosen.json.write_text(json.dumps(rows, indent=1))
    summary(rows)


def summary(rows: list[dict[str, Any]]) -> None:
    """Print means over the seeds, and the ratio of the times."""
    times = {}
    for name in ("noether", "neuraloperator"):
        own = [row for row in rows if row["trainer"] == name]
        times[name] = [row["seconds"] for row in own]
        means = "  ".join(f"{size}: {_spread([row[size] for row in own])}" for size in ("16", "32"))
        print(f"{name:14}  {means}  median {statistics.median(times[name]):.2f} s an epoch")
    ratios = [ours / theirs for ours, theirs in zip(times["noether"], times["neuraloperator"], strict=True)]
    print(f"time an epoch, noether over neuraloperator: median {statistics.median(ratios):.3f} of {len(ratios)}")


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


if __name__ == "__main__":
    main()
