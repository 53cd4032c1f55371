"""Data that cannot be used end with one error that names their place and the way out."""

import socket
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from noether_plugin_hf_datasets.dataset import HfDataset, HfDatasetConfig
from pyarrow import parquet

import noether
from noether.errors import DataError, SpecError
from noether.testing import tiny_spec

COMMIT = "0123456789" * 4


def opened(path: Path, **options) -> HfDataset:
    return HfDataset(HfDatasetConfig(kind="hf-datasets", path=str(path), **options))


def saved(folder: Path, **columns) -> Path:
    Dataset.from_dict(columns).save_to_disk(folder / "data")
    return folder / "data"


def refused(path: Path, named: str, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    assert named in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return caught.value


def test_a_column_that_is_not_numbers(tmp_path: Path):
    path = saved(tmp_path, x=[1.0], caption=["a wing"])
    refused(path, "'caption'")
    assert len(opened(path, properties={"x": "x"})) == 1


def test_an_unknown_column_is_named_with_the_one_that_was_meant(tmp_path: Path):
    refused(saved(tmp_path, pressure=[1.0]), "pressure", properties={"p": "presure"})


@pytest.mark.parametrize("column", [[1.0, None, 2.0], [[1.0], None, [2.0]], [[1.0], [None], [2.0]]])
def test_a_missing_value_is_refused_before_training(tmp_path: Path, column):
    path = saved(tmp_path, x=column, y=[1, 2, 3])
    refused(path, "'x'")
    assert len(opened(path, properties={"y": "y"})) == 3


def test_a_missing_value_in_parquet_is_refused_before_training_unless_it_is_in_a_list(tmp_path: Path):
    parquet.write_table(pa.table({"x": [1.0, None], "points": [[1.0], [None]]}), tmp_path / "a.parquet")
    refused(tmp_path, "'x'", streaming=True)
    with pytest.raises(DataError, match="'points'"):
        opened(tmp_path, streaming=True, properties={"points": "points"})[1]


def test_lists_of_different_lengths_below_the_first_dimension(tmp_path: Path):
    data = opened(saved(tmp_path, x=[[[1.0], [2.0, 3.0]], [[1.0]]]))
    with pytest.raises(DataError, match="'x'"):
        data.__getitems__([0])


def test_samples_of_different_sizes_without_a_collator_for_them(tmp_path: Path):
    data = opened(saved(tmp_path, points=[[1.0], [2.0, 3.0]]))
    with pytest.raises(DataError, match="pad"):
        data.__getitems__([0, 1])


def test_no_samples(tmp_path: Path):
    refused(saved(tmp_path, x=[]), "0 rows")


def test_splits(tmp_path: Path):
    part = Dataset.from_dict({"x": [1.0]})
    DatasetDict(train=part, validation=part).save_to_disk(tmp_path / "data")
    refused(tmp_path / "data", "train, validation")
    refused(tmp_path / "data", "validation", split="validatoin")
    part.to_parquet(tmp_path / "data.parquet")
    refused(tmp_path / "data.parquet", "no splits", split="train")


def test_a_place_without_data(tmp_path: Path):
    refused(tmp_path / "nothing", "nothing")
    (tmp_path / "train").mkdir()
    refused(tmp_path, "train")
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.jsonl").write_text('{"x": 1}\n')
    refused(tmp_path, ".csv, .jsonl")
    refused(tmp_path / "a.csv", "streamed", streaming=True)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing more"])
def test_a_damaged_file(tmp_path: Path, streaming: bool, content: bytes):
    (tmp_path / "wing.parquet").write_bytes(content)
    refused(tmp_path / "wing.parquet", "wing.parquet", streaming=streaming)


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_folder(tmp_path: Path, file: str):
    path = saved(tmp_path, x=[1.0, 2.0])
    (path / file).write_bytes(b"{")
    refused(path, str(path))


def test_files_with_different_columns(tmp_path: Path):
    parquet.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    refused(tmp_path, "b.parquet", streaming=True)


def test_a_file_that_changes_during_the_run(tmp_path: Path):
    parquet.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "a.parquet", row_group_size=1)
    data = opened(tmp_path, streaming=True)
    parquet.write_table(pa.table({"x": [1.0, 2.0, 3.0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet"):
        data.__getitems__([1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"path": "a", "hub": "b/c", "revision": COMMIT},
        {"path": "a", "revision": COMMIT},
        {"hub": "b/c"},
        {"hub": "b/c", "revision": "main"},
        {"hub": "b/c", "revision": COMMIT, "streaming": True},
        {"path": "a", "split": "train[:10%]"},
    ],
)
def test_options_that_exclude_each_other_are_refused_with_the_spec(options):
    with pytest.raises(SpecError):
        noether.load_spec(tiny_spec(datasets={"train": {"kind": "hf-datasets", "part": None, **options}}))


def test_a_path_uses_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    data = Dataset.from_dict({"x": [1.0, 2.0]})
    data.save_to_disk(tmp_path / "data")
    for suffix, write in ((".parquet", data.to_parquet), (".csv", data.to_csv), (".json", data.to_json)):
        write(tmp_path / f"x{suffix}")
        assert len(opened(tmp_path / f"x{suffix}")) == 2
    assert len(opened(tmp_path / "data")) == 2


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        HfDataset(HfDatasetConfig(kind="hf-datasets", hub="nobody/nothing", revision=COMMIT))
    assert "nobody/nothing" in str(caught.value) and "save_to_disk" in str(caught.value)


def test_a_data_set_of_the_hub_is_loaded_at_its_commit(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load_dataset(path, name=None, *, split=None, revision=None):
        asked.append((path, name, split, revision))
        return Dataset.from_dict({"x": [1.0, 2.0]}, split=split)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    config = HfDatasetConfig(kind="hf-datasets", hub="a/b", subset="small", split="test", revision=COMMIT)
    assert len(HfDataset(config)) == 2
    assert asked == [("a/b", "small", "test", COMMIT)]
