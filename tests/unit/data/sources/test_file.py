"""Samples from files of four formats, and errors about unusable files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from safetensors.torch import save_file

from noether.data.build import build_data
from noether.data.container import DataContainer
from noether.data.sources.file import FileConfig, FileDataset
from noether.data.transforms import NormalizeConfig, Transform
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
        read(tmp_path / "data.xlsx")
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
    assert "'a'" in str(caught.value)
    assert "objects" in str(caught.value)


def test_text_is_refused_as_property(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.array(["one", "two"]))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.npz")
    assert "'a'" in str(caught.value)


def test_missing_values_in_a_table_are_an_error(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1.0, None, 3.0]}), tmp_path / "data.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.parquet")
    assert "'a': found 1 of 3 rows without one, the first is row 2" in str(caught.value)


def test_a_single_array_without_a_name_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.ones(3))
    (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "data.npz")
    assert "data.npz" in str(caught.value)


def refusal(path: Path, **options: object) -> str:
    """Return the message of the error with which a file is refused; it names the file."""
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def write(folder: Path, suffix: str, columns: list[tuple[str, pa.Array]]) -> Path:
    """Write a table whose columns may have equal names."""
    path = folder / f"data.{suffix}"
    table = pa.table([column for _, column in columns], names=[name for name, _ in columns])
    (parquet.write_table if suffix == "parquet" else csv.write_csv)(table, path)
    return path


NUMBERS = pa.array([1.0, 2.0, 3.0])


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_doubled_column_is_named_if_it_is_used(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path, suffix, [("a", NUMBERS), ("b", NUMBERS), ("a", NUMBERS)])
    assert "'a' 2 times" in refusal(path)
    assert "'a' 2 times" in refusal(path, properties={"x": ["a", "b"]})
    assert read(path, properties={"x": "b"})[1]["x"].item() == 2


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m"])
def test_a_name_that_is_no_key_is_shown(suffix: str, name: str, tmp_path: Path) -> None:
    assert repr(name) in refusal(write(tmp_path, suffix, [("a", NUMBERS), (name, NUMBERS)]))


@pytest.mark.parametrize("name", ["a.b", "a b", "a/b", "grün", "class", '"quoted"', " x", "0"])
def test_any_other_name_is_a_property(name: str, tmp_path: Path) -> None:
    paths = [write(tmp_path, suffix, [(name, NUMBERS), ("c", NUMBERS)]) for suffix in ("parquet", "csv")]
    np.savez(tmp_path / "data.npz", **{name: np.ones(3)})
    save_file({name: torch.ones(3)}, tmp_path / "data.safetensors")
    for path in [*paths, tmp_path / "data.npz", tmp_path / "data.safetensors"]:
        assert read(path, properties={name: name})[0][name].item() == 1


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1.0, 2.0], [3.0], []]),
        pa.array([[1.0, 2.0]] * 3, type=pa.list_(pa.float64(), 2)),
        pa.array([{"u": 1.0}] * 3),
        pa.array(["a", "b", "c"]),
        pa.array([b"a", b"b", b"c"]),
        pa.array([1, 2, 3], type=pa.timestamp("s")),
        pa.array([1, 2, 3], type=pa.decimal128(5)),
        pa.array(["a", "b", "a"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_that_holds_no_numbers_is_named_with_its_type(column: pa.Array, tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "parquet", [("a", NUMBERS), ("b", column)]))
    assert "'b'" in message
    assert str(column.type).split("<")[0].split("[")[0] in message


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_column_with_nulls_is_named(suffix: str, tmp_path: Path) -> None:
    for column in (pa.array([1.0, None, 3.0]), pa.array([None] * 3, type=pa.null())):
        assert "'b'" in refusal(write(tmp_path, suffix, [("a", NUMBERS), ("b", column)]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_unsigned_integers_keep_their_values_or_are_refused(suffix: str, dtype: str, tmp_path: Path) -> None:
    path, largest = tmp_path / f"data.{suffix}", np.iinfo(dtype).max

    def write(value: int) -> None:
        column = np.full(3, value, dtype=dtype)
        if suffix == "npz":
            np.savez(path, a=column)
        elif suffix == "safetensors":
            save_file({"a": torch.from_numpy(column)}, path)
        else:
            parquet.write_table(pa.table({"a": column}), path)

    write(min(largest, 2**63 - 1))
    assert read(path)[0]["a"].item() == min(largest, 2**63 - 1)
    if dtype == "uint64":
        write(2**63 + 5)
        message = refusal(path)
        assert "'a'" in message
        assert "uint64" in message


def test_half_precision_becomes_single_precision(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.array([0.5, 1.5], dtype=np.float16))
    save_file({"a": torch.tensor([0.5, 1.5], dtype=torch.bfloat16)}, tmp_path / "data.safetensors")
    parquet.write_table(pa.table({"a": np.array([0.5, 1.5], dtype=np.float16)}), tmp_path / "data.parquet")
    for suffix in ("npz", "safetensors", "parquet"):
        values = read(tmp_path / f"data.{suffix}").properties["a"]
        assert (values.dtype, values.tolist()) == (torch.float32, [0.5, 1.5])


def test_complex_numbers_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.array([1j]))
    save_file({"a": torch.tensor([1j])}, tmp_path / "data.safetensors")
    for suffix in ("npz", "safetensors"):
        message = refusal(tmp_path / f"data.{suffix}")
        assert "'a'" in message
        assert "complex" in message


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, dtype=[("u", "f4")]), np.array(["2020-01-01"] * 3, dtype="M8[D]"), np.zeros(3, dtype=np.longdouble)],
    ids=["records", "dates", "long double"],
)
def test_other_types_of_arrays_are_named(array: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=array)
    assert "'a'" in refusal(tmp_path / "data.npz")


@pytest.mark.parametrize("suffix", ["npz", "parquet", "csv"])
def test_a_file_without_samples_has_none(suffix: str, tmp_path: Path) -> None:
    if suffix == "npz":
        np.savez(tmp_path / "data.npz", a=np.empty(0))
    else:
        write(tmp_path, suffix, [("a", pa.array([], type=pa.float64()))])
    dataset_or_error = None
    try:
        dataset_or_error = len(read(tmp_path / f"data.{suffix}"))
    except DataError as error:
        assert "'a'" in str(error)
    assert dataset_or_error in (0, None)


def test_columns_of_several_types_side_by_side_keep_their_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", u=np.float32([0.5]), n=np.array([16_777_217]), v=np.float64([0.1]))
    dataset = read(tmp_path / "data.npz", properties={"x": ["u", "n", "v"]})
    assert dataset.exact["x"].tolist() == [[0.5, 16_777_217, 0.1]]


# Rounding to float32


def prepared(path: Path, normalized: bool, **options: object) -> torch.Tensor:
    """Return the property `x` as a run gets it."""
    transforms = [NormalizeConfig.model_validate({"kind": "normalize", "properties": ["x"]})] if normalized else []
    config = FileConfig.model_validate({"kind": "file", "path": str(path), **options})
    return build_data({"train": config}, transforms).get_dataset("train").properties["x"]


LOST = {
    "a large offset": 1e9 + np.arange(8.0),
    "tiny numbers": np.arange(1, 9) * 1e-50,
    "huge numbers": np.arange(1, 9) * 1e50,
    "an offset in float64 noise of the rest": 1e6 + np.arange(8.0) / 100,
}


@pytest.mark.parametrize("values", LOST.values(), ids=LOST)
def test_numbers_that_float32_would_lose_are_an_error_unless_they_are_normalised(values, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=values, u=np.arange(8.0))
    for options in ({}, {"properties": {"x": ["u", "x"]}}):
        with pytest.raises(DataError) as caught:
            prepared(tmp_path / "data.npz", False, **options)
        assert "'x'" in str(caught.value)
        found = prepared(tmp_path / "data.npz", True, **options)
        assert found.dtype == torch.float32
        wanted = (values - values.mean()) / values.std()
        np.testing.assert_allclose(found.reshape(8, -1)[:, -1], wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 1, 8),
        np.full(8, 0.1),
        np.full(8, 1e9 + 1),
        np.array([0.1 + 0.2, 0.3] * 4),
        np.array([0.0, 1e-50] * 4) + 1,
        1e5 + np.linspace(0, 1, 8),
    ],
)
def test_numbers_that_float32_keeps_are_rounded(values, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=values)
    assert torch.equal(prepared(tmp_path / "data.npz", False), torch.from_numpy(values).float())


def test_a_transform_that_does_not_know_float64_gets_float32(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.linspace(0, 1, 8))
    container = DataContainer({"train": read(tmp_path / "data.npz")}, transforms=[Sees()])
    assert container.get_dataset("train").properties["x"].dtype == torch.float32


class Sees(Transform):
    """Refuses float64."""

    deterministic = batched = True

    def __call__(self, sample):
        assert sample["x"].dtype == torch.float32
        return dict(sample)
