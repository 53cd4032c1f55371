"""The wording of the errors of data, in one place; other tests look at types and facts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from noether.config.components import SamplingTable
from noether.data.collators import concat, pad, stack
from noether.data.container import DataContainer
from noether.data.dataset import Dataset, InMemoryDataset, length_of
from noether.data.fetch import fetch_of, first_sample
from noether.data.loader import _explained, _too_slow, evaluation_pass
from noether.data.mixtures import joined
from noether.data.samplers import TrainingOrder, updates_per_epoch
from noether.data.sampling import Mixed, order_of
from noether.data.sources.columns import checked_names, facts_of, read_arrays
from noether.data.sources.file import DiskConfig, DiskDataset, FileConfig, FileDataset
from noether.data.splits import split_indices
from noether.data.transforms import Normalize, NormalizeConfig
from noether.data.views import PreparedDatasets, subset
from noether.data.workers import WorkerLostError

ROWS = InMemoryDataset({"x": torch.ones(4, 2), "y": torch.arange(4)})


class Uneven(Dataset):
    """A data set whose second sample lacks a property."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(())} if index else {"x": torch.ones(()), "y": torch.ones(())}


class OneBuffer(Uneven):
    """A data set that returns the same memory for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.zeros(2)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": self.x.fill_(index)}


def normalize(name: str, method: str = "mean-std") -> Normalize:
    return Normalize(NormalizeConfig(kind="normalize", properties=[name], method=method))


def test_messages(golden: Any, tmp_path: Path) -> None:
    golden({**of_data_sets(), **of_files(tmp_path), **of_transforms(), **of_orders(tmp_path)})


def of_data_sets() -> dict[str, Any]:
    data = DataContainer({"train": ROWS})
    consumer = data.sampler_config("train", every_n_epochs=1)
    killed, left = SimpleNamespace(pid=7, exitcode=-9), SimpleNamespace(pid=8, exitcode=0)
    return {
        "an unknown data set": lambda: data.get_dataset("tran"),
        "no data sets": lambda: DataContainer({}).get_dataset(),
        "lengths that differ": lambda: InMemoryDataset({"x": torch.ones(2), "y": torch.ones(3)}),
        "no length": lambda: length_of(torch.utils.data.Dataset()),
        "an empty data set": lambda: first_sample(InMemoryDataset({"x": torch.empty(0)})),
        "an unknown property": lambda: subset(ROWS, properties=["X"]),
        "a property that a sample lacks": lambda: subset(Uneven(), properties=["y"])[1],
        "a sample of a wrong type": lambda: stack([(1, 2)]),  # type: ignore[list-item]  # wrong on purpose
        "a property that a sample of a batch lacks": lambda: stack([Uneven()[0], Uneven()[1]]),
        "samples that overwrite each other": lambda: fetch_of(OneBuffer(), 0)(torch.arange(2), 0),
        "shapes that differ": lambda: stack([{"x": torch.ones(2)}, {"x": torch.ones(3)}]),
        "two numbers of points": lambda: pad([{"x": torch.ones(n, 2), "s": torch.ones(n + 1, 2)} for n in (2, 3)]),
        "no points": lambda: concat([{"x": 1.0}]),
        "points of two types": lambda: pad([{"x": torch.ones(2, 2)}, {"x": torch.ones(2, 3)}]),
        "a property with the name of the mask": lambda: pad([{"mask": torch.ones(2)}]),
        "a pass that is over": lambda: list(evaluation_pass(iter([]), consumer, 2)),
        "a worker that hangs": lambda: raised(_too_slow(600.0)),
        "a worker that was killed": lambda: raised(_explained(WorkerLostError([killed]))),
        "a worker that left": lambda: raised(_explained(WorkerLostError([left]))),
        "fractions": lambda: split_indices(4, {"a": 0.5, "b": 0.6}, 0),
        "too few samples": lambda: updates_per_epoch(4, 5),
        "batches that do not divide": lambda: TrainingOrder(8, 6, 4),
    }


def raised(error: Exception) -> None:
    raise error


def of_files(folder: Path) -> dict[str, Any]:
    np.savez(folder / "train.npz", x=np.zeros((3, 2)), y=np.zeros(3), z=np.zeros(2), name=np.array(["a", "b", "c"]))
    np.save(folder / "one.npy", np.zeros(3))
    (folder / "one.npy").rename(folder / "one.npz")
    (folder / "broken.safetensors").write_bytes(b"no")

    unsigned = np.full(3, 2**63 + 5, dtype=np.uint64)
    far = 1e9 + np.arange(3.0)
    np.savez(folder / "odd.npz", objects=np.array([{}, {}, {}]), unsigned=unsigned, x=np.zeros(3), far=far)

    def file(name: str = "train", **properties: Any) -> Any:
        path = str(folder / f"{name}.npz")
        return FileDataset(FileConfig(kind="file", path=path, properties=properties))

    def odd(**properties: Any) -> Any:
        return file("odd", **properties)

    np.savez_compressed(folder / "small.npz", x=np.zeros(3))
    np.save(folder / "columns.npy", np.asfortranarray(np.zeros((3, 2))))
    np.save(folder / "cut.npy", np.zeros(3))
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:-1])
    (folder / "empty.npy").touch()

    def disk(name: str) -> Any:
        return DiskDataset(DiskConfig(kind="disk", path=str(folder / name)))

    return {
        "a compressed file on disk": lambda: disk("small.npz"),
        "a file on disk by columns": lambda: disk("columns.npy"),
        "a truncated file on disk": lambda: disk("cut.npy"),
        "an empty file on disk": lambda: disk("empty.npy"),
        "an unknown format on disk": lambda: disk("table.csv"),
        "an unknown format": lambda: read_arrays(folder / "train.xlsx", None),
        "a missing file": lambda: read_arrays(folder / "trian.npz", None),
        "a folder": lambda: read_arrays(made(folder / "data.npz"), None),
        "a single array": lambda: read_arrays(folder / "one.npz", None),
        "a damaged file": lambda: read_arrays(folder / "broken.safetensors", None),
        "an unknown array": lambda: read_arrays(folder / "train.npz", ["X"]),
        "text": lambda: read_arrays(folder / "train.npz", ["name"]),
        "Python objects": lambda: read_arrays(folder / "odd.npz", ["objects"]),
        "integers beyond 64 bits with a sign": lambda: read_arrays(folder / "odd.npz", ["unsigned"]),
        "numbers that are lost": lambda: DataContainer({"train": odd(x=["x", "far"])}).first_sample(),
        "a name that is not text": lambda: checked_names(folder / "a.parquet", None, ["a\n"]),
        "a doubled column": lambda: checked_names(folder / "a.parquet", None, ["a", "b", "a"]),
        "arrays of different lengths": lambda: file(y="y", z="z"),
        "a property without arrays": lambda: file(x="x", y=[]),
        "an array that cannot be a component": lambda: file(y=["y", "x"]),
        "arrays of a new spec that differ in length": lambda: facts_of(
            Path("a.npz"), {"x": torch.ones(2), "y": torch.ones(3)}
        ),
        "numbers that are not finite": lambda: facts_of(Path("a.npz"), {"x": torch.tensor([1.0, torch.nan])}),
    }


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def of_transforms() -> dict[str, Any]:
    return {
        "a transform without a training set": lambda: PreparedDatasets({"test": ROWS}, [normalize("x")]).get("test"),
        "an unknown property to normalise": lambda: normalize("X").fit(ROWS),
        "booleans": lambda: normalize("y").fit(InMemoryDataset({"y": torch.ones(2, dtype=torch.bool)})),
        "integers that float64 cannot hold": lambda: normalize("y").fit(InMemoryDataset({"y": torch.tensor([2**60])})),
        "numbers that are too large": lambda: normalize("x").fit(
            InMemoryDataset({"x": torch.tensor([1e300, 0], dtype=torch.float64)})
        ),
        "no samples": lambda: normalize("x").fit(InMemoryDataset({"x": torch.empty(0)})),
        "NaN": lambda: normalize("x").fit(InMemoryDataset({"x": torch.tensor([torch.nan])})),
        "a number without a logarithm": lambda: normalize("x", "log").fit(InMemoryDataset({"x": torch.zeros(1)})),
        "a transform that is not fitted": lambda: normalize("x")({"x": torch.ones(2)}),
        "statistics of another property": lambda: normalize("x").load_state_dict({"y/shift": torch.ones(())}),
    }


def of_orders(folder: Path) -> dict[str, Any]:
    def ordered(by: str, kind: Any = "weighted", path: Path | None = None, **values: Any) -> Any:
        data = InMemoryDataset({name: torch.tensor(value) for name, value in values.items()} or ROWS.properties)
        return order_of(SamplingTable(kind=kind, by=by, path=path), data)

    folder = made(folder / "orders")
    np.savez(folder / "weights.npz", w=np.ones(3))
    mixed = joined([ROWS, ROWS])
    vars(mixed)["mixture"] = Mixed((4, 4), (1.0, 1.0), 8)
    table = SamplingTable(kind="balanced", by="y")
    in_blocks = InMemoryDataset(ROWS.properties)
    vars(in_blocks)["shuffle_block"] = 2
    return {
        "sampling by an unknown property": lambda: ordered("Y"),
        "weights below 0": lambda: ordered("w", w=[1.0, -2.0]),
        "weights that are all 0": lambda: ordered("w", w=[0, 0]),
        "weights with NaN": lambda: ordered("w", w=[1.0, float("nan")]),
        "weights of a wrong shape": lambda: ordered("x"),
        "weights of too few samples": lambda: ordered("w", path=folder / "weights.npz"),
        "classes that are no whole numbers": lambda: ordered("w", "balanced", w=[0.5, 1.0]),
        "sizes that are all the same": lambda: ordered("x", "buckets"),
        "sampling of a mixture": lambda: order_of(table, mixed),
        "sampling without shuffling": lambda: order_of(table, ROWS, shuffle=False),
        "sampling of blocks": lambda: order_of(table, in_blocks),
        "parts with other properties": lambda: joined([ROWS, InMemoryDataset({"x": torch.ones(2, 3)})]),
    }
