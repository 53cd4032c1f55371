"""Samples: columns and their types, samples of different sizes, agreement with `kind = "file"`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value
from noether_plugin_hf_datasets.dataset import HfDataset, HfDatasetConfig
from pyarrow import parquet

from noether.data.sources.file import FileConfig, FileDataset

ORDER = [7, 0, 19, 7, 3, 12]


def opened(path: Path, **options) -> HfDataset:
    return HfDataset(HfDatasetConfig(kind="hf-datasets", path=str(path), **options))


@pytest.fixture(scope="module")
def wings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty samples in a Parquet file of row groups of six; `p` needs float64."""
    draw = np.random.default_rng(0)
    columns = {
        "x": draw.random(20),
        "y": draw.random(20).astype("f4"),
        "p": 1e9 + draw.random(20),
        "label": draw.integers(0, 9, 20).astype("u1"),
        "wet": draw.random(20) > 0.5,
    }
    path = tmp_path_factory.mktemp("wings") / "wings.parquet"
    parquet.write_table(pa.table(columns), path, row_group_size=6)
    return path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("properties", [None, {"position": ["x", "y"], "p_target": "p", "wet": "wet"}])
@pytest.mark.parametrize("part", [None, "train", "test"])
def test_samples_are_those_of_file(wings: Path, streaming: bool, properties, part):
    ours = opened(wings, streaming=streaming, properties=properties, part=part, test_fraction=0.3)
    file = FileDataset(
        FileConfig(kind="file", path=str(wings), properties=properties, split=part, test_fraction=0.3), seed=0
    )
    assert len(ours) == len(file)
    order = [index % len(file) for index in ORDER]
    mine, theirs = ours.__getitems__(order), file.__getitems__(order)
    assert list(mine) == list(theirs)
    for name, values in theirs.items():
        assert mine[name].dtype == values.dtype and torch.equal(mine[name], values)
    whole = torch.arange(len(file))
    exact, in_full = ours.in_full().__getitems__(whole), file.in_full().__getitems__(whole)
    for name, values in in_full.items():
        assert torch.equal(exact[name].double(), values.double())
    assert set(ours.spread(10).exact) == set(file.exact)


def test_lists_and_arrays_are_dimensions_of_a_sample(tmp_path: Path):
    features = Features(
        {
            "array": Array2D((2, 3), "float32"),
            "fixed": List(Value("int16"), length=4),
            "lists": List(List(Value("float64"))),
            "large": LargeList(Value("float16")),
            "label": ClassLabel(names=["cat", "dog"]),
            "wet": Value("bool"),
        }
    )
    rows = {
        "array": np.arange(30.0).reshape(5, 2, 3).tolist(),
        "fixed": np.arange(20).reshape(5, 4).tolist(),
        "lists": np.arange(20.0).reshape(5, 2, 2).tolist(),
        "large": np.arange(15.0).reshape(5, 3).tolist(),
        "label": [0, 1, 1, 0, 1],
        "wet": [True, False, True, False, False],
    }
    Dataset.from_dict(rows, features).save_to_disk(tmp_path / "data")
    batch = opened(tmp_path / "data").__getitems__([4, 0])
    kinds = {"array": torch.float32, "lists": torch.float32, "large": torch.float32, "wet": torch.bool}
    for name, values in rows.items():
        expected = torch.tensor([values[4], values[0]], dtype=kinds.get(name, torch.int64))
        assert batch[name].dtype == expected.dtype and torch.equal(batch[name], expected)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".arrow"])
def test_files_of_each_format_are_read_in_the_order_of_their_names(tmp_path: Path, suffix: str):
    for name, start in (("b", 3), ("a", 0)):
        data = Dataset.from_dict({"x": [float(start + row) for row in range(3)]})
        file = tmp_path / f"{name}{suffix}"
        if suffix == ".arrow":
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, data.data.schema) as writer:
                writer.write_table(data.data.table)
        else:
            (data.to_csv if suffix == ".csv" else data.to_json)(file)
    (tmp_path / "README.md").write_text("a note beside the data")
    assert opened(tmp_path).__getitems__(range(6))["x"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_split_is_chosen_by_name_and_the_only_one_needs_none(tmp_path: Path):
    parts = DatasetDict(train=Dataset.from_dict({"x": [1.0]}), validation=Dataset.from_dict({"x": [2.0, 3.0]}))
    parts.save_to_disk(tmp_path / "two")
    DatasetDict(train=parts["train"]).save_to_disk(tmp_path / "one")
    assert opened(tmp_path / "two", split="validation").__getitems__([1])["x"].item() == 3.0
    assert len(opened(tmp_path / "one")) == 1


def test_a_list_whose_length_varies_is_a_sample_of_its_own_size(tmp_path: Path):
    clouds = [[[float(row), float(point)] for point in range(row + 1)] for row in range(4)]
    Dataset.from_dict({"points": clouds}).save_to_disk(tmp_path / "clouds")
    data = opened(tmp_path / "clouds")
    assert [tuple(data[row]["points"].shape) for row in range(4)] == [(1, 2), (2, 2), (3, 2), (4, 2)]
    assert data[2]["points"].tolist() == clouds[2]


@pytest.mark.parametrize("transforms", [[], [{"kind": "normalize", "properties": ["points"]}]])
def test_samples_of_different_sizes_are_padded_in_a_run(tmp_path: Path, tiny_run, transforms):
    draw = np.random.default_rng(0)
    sizes = [2 + row % 3 for row in range(12)]
    columns = {
        "points": [draw.random((size, 3)).tolist() for size in sizes],
        "p_target": [draw.random((size, 1)).tolist() for size in sizes],
    }
    Dataset.from_dict(columns).save_to_disk(tmp_path / "clouds")
    tiny_run(
        datasets={
            "train": {"kind": "hf-datasets", "path": str(tmp_path / "clouds"), "collate": "pad"},
            "test": None,
        },
        transforms=transforms,
        model={"kind": "torch.nn.Linear", "in_features": 3, "hidden": None, "out_features": 1},
        trainer={
            "forward_properties": ["points"],
            "target_properties": ["p_target"],
            "field_weights": {"y": None, "p": 1.0},
            "max_updates": 3,
        },
    )


def test_blocks_in_memory_stay_below_their_limit(tmp_path: Path):
    """32 MiB of numbers in row groups of 1 MiB, read at random, with 4 MiB kept."""
    values = np.random.default_rng(0).random((32, 1 << 17))
    table = pa.table({"x": values.reshape(-1)})
    parquet.write_table(table, tmp_path / "large.parquet", row_group_size=1 << 17, compression=None)
    del table
    data = opened(tmp_path / "large.parquet", streaming=True, cached_mib=4)
    before, order = pa.total_allocated_bytes(), np.random.default_rng(1).permutation(len(data))
    flat = values.reshape(-1).astype("f4")
    for start in range(0, 1 << 14, 256):
        batch = data.__getitems__(torch.from_numpy(order[start : start + 256]))
        assert np.array_equal(batch["x"].numpy(), flat[order[start : start + 256]])
        assert pa.total_allocated_bytes() - before < 7 << 20
