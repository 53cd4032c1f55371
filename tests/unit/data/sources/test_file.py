"""Samples from files of four formats, and errors about unusable files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from safetensors.torch import save_file

from noether.data.sources.file import FileConfig, FileDataset
from noether.errors import DataError

U = np.linspace(0, 1, 10)
V = np.linspace(5, 6, 10).astype(np.float32)
LABEL = np.arange(10, dtype=np.int32)


@pytest.fixture(params=["npz", "safetensors", "parquet", "csv"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    columns = {"u": U, "v": V, "label": LABEL}
    file = tmp_path / f"data.{request.param}"
    if request.param == "npz":
        np.savez(file, **columns)
    elif request.param == "safetensors":
        save_file({name: torch.from_numpy(column) for name, column in columns.items()}, file)
    elif request.param == "parquet":
        parquet.write_table(pa.table(columns), file)
    else:
        csv.write_csv(pa.table(columns), file)
    return file


def read(path: Path, **options: object) -> FileDataset:
    return FileDataset(FileConfig.model_validate({"path": str(path), **options}))


def test_every_array_is_a_property(path: Path) -> None:
    dataset = read(path)
    assert len(dataset) == 10
    assert {name: value.dtype for name, value in dataset[3].items()} == {
        "u": torch.float32,
        "v": torch.float32,
        "label": torch.int64,
    }
    assert dataset[3]["label"].item() == 3


def test_columns_are_put_side_by_side_or_renamed(path: Path) -> None:
    dataset = read(path, properties={"velocity": ["u", "v"], "label_target": "label", "speed": ["v"]})
    assert dataset[9]["velocity"].tolist() == [1, 6]
    assert dataset[9]["label_target"].shape == ()
    assert dataset[9]["speed"].tolist() == [6]
    assert list(dataset[9]) == ["velocity", "label_target", "speed"]


def test_parts_of_a_split_cover_the_file(path: Path) -> None:
    parts = [read(path, split=split, test_fraction=0.3).properties["label"] for split in ("train", "test")]
    assert [len(part) for part in parts] == [7, 3]
    assert torch.cat(parts).sort().values.tolist() == list(range(10))


def test_an_array_that_the_file_lacks_is_named(path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(path, properties={"y": "lable"})
    assert str(path) in str(caught.value)
    assert "'lable'" in str(caught.value)
    assert "'label'" in str(caught.value)


def test_a_property_without_arrays_is_an_error(path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(path, properties={"x": "u", "z": []})
    assert "'z'" in caught.value.message


def test_a_damaged_file_is_an_error(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_an_empty_file_is_an_error(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_that_shows_what_is_there(path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(path.with_stem("other"))
    assert path.suffix in str(caught.value)
    assert path.name in str(caught.value)


def test_an_unknown_format_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.txt")
    assert ".npz, .safetensors, .parquet, .csv" in str(caught.value)


def test_arrays_of_different_length_are_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.ones(3), b=np.ones(4), c=np.float32(1))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.npz")
    assert "3" in str(caught.value)
    assert "4" in str(caught.value)


def test_arrays_that_are_no_columns_are_not_put_side_by_side(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", points=np.ones((3, 2)))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.npz", properties={"x": ["points"]})
    assert "'points'" in str(caught.value)
    assert "3" in str(caught.value)
    assert "2" in str(caught.value)
    assert caught.value.hint == 'to use it as it is: x = "points"'


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.array([{"x": 1}, None], dtype=object))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.npz")
    assert "allow_pickle" in str(caught.value)


def test_text_is_refused_as_property(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.array(["one", "two"]))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.npz")
    assert "'a'" in str(caught.value)


def test_missing_values_in_a_table_are_an_error(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1.0, None, 3.0]}), tmp_path / "data.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.parquet")
    assert "'a'" in str(caught.value)
    assert "1" in str(caught.value)
    assert "3" in str(caught.value)


def test_a_single_array_without_a_name_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.ones(3))
    (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.npz")
    assert "data.npz" in str(caught.value)
