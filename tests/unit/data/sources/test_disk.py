"""Samples of a file that stays on disk: those of `file` bit for bit, in bounded memory, and clear errors."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from noether.data import randomness, splits
from noether.data.container import DataContainer
from noether.data.randomness import BlockShuffle, mix
from noether.data.samplers import TRAINING
from noether.data.sources import file, mapped
from noether.data.sources.file import DiskConfig, DiskDataset, FileConfig, FileDataset
from noether.data.sources.mapped import ChunkedArray, MappedArray
from noether.data.transforms import Normalize, NormalizeConfig
from noether.errors import DataError

Arrays = dict[str, np.ndarray[Any, Any]]
N = 203


def arrays() -> Arrays:
    generator = np.random.default_rng(0)
    return {
        "x": generator.normal(size=(N, 3, 2)).astype(np.float32),
        "height": 1e9 + generator.normal(size=N),  # float32 cannot tell these apart
        "half": generator.normal(size=(N, 4)).astype(np.float16),
        "label": generator.integers(0, 9, N).astype(np.uint8),
        "wide": generator.integers(0, 9, (N, 1)).astype(np.uint64),
        "inside": generator.random(N) > 0.5,
    }


def save_folder(path: Path, held: Arrays) -> None:
    path.mkdir()
    for name, values in held.items():
        np.save(path / f"{name}.npy", values.astype(values.dtype.newbyteorder(">")))


def save_safetensors(path: Path, held: Arrays) -> None:
    save_file({name: torch.from_numpy(values) for name, values in held.items()}, path)


def save_hdf5(path: Path, held: Arrays, **options: Any) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, values in held.items():
            chunks = (16, *values.shape[1:]) if options else None
            file.create_dataset(f"fields/{name}" if name == "half" else name, data=values, chunks=chunks, **options)


def save_zarr(path: Path, held: Arrays) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w")
    for name, values in held.items():
        group.create_array(name, data=values, chunks=(16, *values.shape[1:]))


SAVE: dict[str, Callable[[Path, Arrays], None]] = {
    "a.npz": lambda path, held: np.savez(path, **held),
    "folder": save_folder,
    "a.safetensors": save_safetensors,
    "a.h5": save_hdf5,
    "chunks.hdf5": lambda path, held: save_hdf5(path, held, compression="gzip"),
    "a.zarr": save_zarr,
}
CHUNKED = ("chunks.hdf5", "a.zarr")


@pytest.fixture(params=SAVE)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    held = arrays()
    SAVE[request.param](tmp_path / request.param, held)
    np.savez(tmp_path / "memory.npz", **held)
    return tmp_path / request.param


def memory_of(path: Path) -> Path:
    """Return a file of the same arrays that `file` can read: the same one, or an .npz."""
    return path if path.suffix == ".safetensors" else path.with_name("memory.npz")


def on_disk(path: Path, *, seed: int = 0, **options: Any) -> DiskDataset:
    return DiskDataset(DiskConfig.model_validate({"path": str(path), **options}), seed=seed)


def in_memory(path: Path, *, seed: int = 0, **options: Any) -> FileDataset:
    return FileDataset(FileConfig.model_validate({"path": str(path), **options}), seed=seed)


def renamed(path: Path, **options: Any) -> dict[str, Any]:
    half = "fields/half" if path.suffix in (".h5", ".hdf5") else "half"
    return {"properties": {"half": half, "both": ["label", "wide"], "height": "height", "x": "x"}, **options}


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("split", [None, "train", "test"])
def test_batches_are_those_of_the_file_in_memory(path: Path, split: str | None) -> None:
    memory = in_memory(memory_of(path), **renamed(Path("memory.npz"), split=split), seed=3)
    stored = on_disk(path, **renamed(path, split=split), seed=3)
    assert len(stored) == len(memory)
    for indices in (torch.randperm(len(memory)), torch.tensor([5, 5, 0]), [len(memory) - 1]):
        assert_equal(stored.__getitems__(indices), memory.__getitems__(indices))
    assert_equal(stored[-1], memory[len(memory) - 1])
    with pytest.raises(IndexError):
        stored[len(stored)]


def test_every_array_is_a_property_without_a_choice(path: Path) -> None:
    found = on_disk(path)[0]
    assert {name.removeprefix("fields/") for name in found} == set(arrays())
    assert found["inside"].dtype == torch.bool
    assert found["label"].dtype == torch.int64


def test_normalised_batches_are_equal_too_with_exact_numbers_of_the_file(path: Path) -> None:
    def batches(dataset: Any) -> list[dict[str, Any]]:
        transforms = [Normalize(NormalizeConfig(kind="normalize", properties=["height", "x", "half"]))]
        data = DataContainer({"train": dataset}, seed=1, transforms=transforms)
        return [batch for tag, _, batch in data.build_loader(batch_size=20, end_update=15) if tag == TRAINING]

    memory = batches(in_memory(memory_of(path), **renamed(Path("memory.npz"))))
    for one, other in zip(memory, batches(on_disk(path, **renamed(path))), strict=True):
        assert_equal(one, other)
    assert float(memory[0]["height"].std()) > 0.5  # not lost in rounding


def test_a_column_that_rounding_destroys_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match="height"):
        DataContainer({"train": on_disk(path, properties={"x": "height"})}).first_sample()


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_read_the_same_batches(path: Path, start_method: str) -> None:
    if start_method == "spawn" and path.name not in CHUNKED:
        pytest.skip("a mapped file is opened again in each process, forked or not")
    stored = on_disk(path, properties={"x": "x"})
    stored[0]  # opened in this process

    def batches(workers: int) -> list[torch.Tensor]:
        data = DataContainer({"train": stored}, num_workers=workers, start_method=start_method, seed=1)
        loader = data.build_loader(batch_size=50, end_update=4)
        return [batch["x"] for tag, _, batch in loader if tag == TRAINING]

    assert all(map(torch.equal, batches(0), batches(2)))


def test_a_data_set_is_pickled_without_its_data(path: Path) -> None:
    stored = on_disk(path)
    stored[0]
    text = pickle.dumps(stored)
    assert len(text) < 3000
    assert_equal(pickle.loads(text)[7], stored[7])


def test_contiguous_arrays_are_mapped_read_only_and_others_read_by_chunks(path: Path) -> None:
    for array in on_disk(path)._opened().values():
        assert isinstance(array, ChunkedArray if path.name in CHUNKED else MappedArray)
        if isinstance(array, MappedArray):
            with pytest.raises(ValueError, match="read-only"):
                array._rows[0] = 0
            array.take(np.array([0]))[:] = 0  # a batch is a copy
    assert_equal(on_disk(path)[0], on_disk(path)[0])


@given(places=st.lists(st.integers(0, N - 1), min_size=1, max_size=40))
def test_rows_of_chunks_come_in_the_order_that_is_asked_for(places: list[int]) -> None:
    class Chunks:
        shape, dtype, chunks = (N, 2), np.dtype(np.int64), (16, 2)
        reads = 0
        rows = np.arange(2 * N).reshape(N, 2)

        def __getitem__(self, part: slice) -> np.ndarray[Any, Any]:
            self.reads += 1
            return self.rows[part]

    held = Chunks()
    array = ChunkedArray(Path("a.zarr"), "a", held)
    assert array.take(np.array(places)).tolist() == held.rows[places].tolist()
    assert held.reads == len({place // 16 for place in places})


def test_decoded_chunks_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_CACHED", 16 * 16 * 4)

    class Chunks:
        shape, dtype, chunks = (1600, 2), np.dtype(np.int64), (16, 2)

        def __getitem__(self, part: slice) -> np.ndarray[Any, Any]:
            return np.zeros((16, 2), dtype=np.int64)

    array = ChunkedArray(Path("a.zarr"), "a", Chunks())
    array.take(np.arange(1600))
    assert len(array._kept) == 4


def test_training_reads_in_blocks_if_the_data_set_asks_for_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(1000))
    data = DataContainer({"train": on_disk(tmp_path / "x.npy", shuffle_block=5)}, seed=7)
    batches = [batch["x"] for _, _, batch in data.build_loader(batch_size=50, end_update=20)]
    assert torch.equal(torch.cat(batches), BlockShuffle(1000, 5, mix(7, 0)).at(torch.arange(1000)))


def test_more_samples_than_can_be_sorted_are_split_without_a_list_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (randomness, splits, file):
        monkeypatch.setattr(module, "LARGEST_SORTED", 100)
    np.save(tmp_path / "x.npy", np.arange(1000))
    parts = {part: on_disk(tmp_path / "x.npy", split=part, seed=3) for part in ("train", "test")}
    held = {part: parts[part].__getitems__(torch.arange(len(parts[part])))["x"] for part in parts}
    assert sorted(torch.cat(list(held.values())).tolist()) == list(range(1000))
    assert len(held["test"]) == 200
    assert set(held["test"].tolist()) == set(in_memory_split(1000))
    with pytest.raises(DataError, match="shuffle_block"):
        on_disk(tmp_path / "x.npy", split="train", shuffle_block=5)


def in_memory_split(n: int) -> list[int]:
    found: list[int] = splits.train_test_indices(n, "test", 0.2, 3).tolist()
    return found


def test_a_truncated_file_is_refused_by_name(path: Path) -> None:
    if path.suffix == ".zarr":
        chunk = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    else:
        chunk = path / "x.npy" if path.is_dir() else path
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        on_disk(path).__getitems__(torch.arange(N))
    assert str(path) in str(caught.value)


def test_a_file_that_is_cut_or_rewritten_while_it_is_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.arange(100_000))
    stored = on_disk(file)
    stored[99_999]
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    with pytest.raises(DataError, match="changed"):
        stored[99_999]


def test_a_file_of_chunks_that_is_rewritten_while_it_is_read_is_refused(tmp_path: Path) -> None:
    save_hdf5(tmp_path / "a.h5", {"x": np.zeros(160)}, compression="gzip")
    save_hdf5(tmp_path / "b.h5", {"x": np.ones(160)}, compression="gzip")
    stored = on_disk(tmp_path / "a.h5")
    stored[0]
    (tmp_path / "a.h5").write_bytes((tmp_path / "b.h5").read_bytes())
    with pytest.raises(DataError, match="changed"):
        stored[159]


def test_a_file_of_many_gigabytes_is_read_at_its_end(tmp_path: Path) -> None:
    rows = (5 << 30) // 4096
    np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(rows, 1024))[-1] = 7
    stored = on_disk(tmp_path / "x.npy")  # the file is sparse: it takes a few pages of the disk
    assert stored.__getitems__([rows - 1, 0])["x"][:, 0].tolist() == [7, 0]
    os.truncate(tmp_path / "x.npy", 3 << 30)
    with pytest.raises(DataError, match="truncated"):
        on_disk(tmp_path / "x.npy")


def test_links_and_folders_that_cannot_be_written_are_read(path: Path) -> None:
    link = path.with_name(f"link{path.suffix}")
    link.symlink_to(path)
    for place in (path, *path.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        assert_equal(on_disk(link, properties={"x": "x"})[5], on_disk(path, properties={"x": "x"})[5])
    finally:
        for place in (path, *path.rglob("*")):
            place.chmod(0o755)


def test_no_samples_and_samples_without_values_have_their_shapes(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 3)))
    np.save(tmp_path / "hollow.npy", np.zeros((4, 0)))
    assert len(on_disk(tmp_path / "none.npy")) == 0
    assert on_disk(tmp_path / "hollow.npy").__getitems__([1, 2])["hollow"].shape == (2, 0)
    with pytest.raises(DataError, match="found 0 samples") as caught:
        DataContainer({"train": on_disk(tmp_path / "none.npy")}).build_loader(batch_size=2, end_update=1)
    assert "at most 0" not in str(caught.value.hint)


def test_a_file_that_is_replaced_by_a_new_one_is_read_to_its_end(tmp_path: Path) -> None:
    file, other = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(file, np.arange(100))
    stored = on_disk(file)
    np.save(other, np.zeros(100))
    other.rename(file)
    assert stored[7]["x"].item() == 7


def test_memory_stays_bounded_while_a_larger_file_is_trained_on(tmp_path: Path) -> None:
    rows, wide = 1 << 16, 1 << 10  # 256 MiB
    np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(rows, wide))[::7] = 1
    small, limit = 32 << 20, 120_000  # kilobytes
    code = f"""
import resource
from noether.data.container import DataContainer
from noether.data.sources.file import DiskConfig, DiskDataset
from noether.data.transforms import Normalize, NormalizeConfig

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

def train(samples, updates):
    transforms = [Normalize(NormalizeConfig(kind="normalize", properties=["x"]))]
    data = DataContainer({{"train": samples}}, transforms=transforms)
    return max(kilobytes("VmRSS") for _ in data.build_loader(batch_size=64, end_update=updates))

import torch
from noether.data.sources import file, mapped
mapped._DROPPED = {small}
torch.set_num_threads(1)
stored = DiskDataset(DiskConfig(kind="disk", path={str(tmp_path / "x.npy")!r}))
before = train(torch.utils.data.Subset(stored, range(64)), 1)
anonymous = kilobytes("VmData")
resource.setrlimit(resource.RLIMIT_DATA, ((anonymous + {limit}) * 1024,) * 2)  # reading it into memory would fail
after = train(stored, {rows // 64})
assert after - before < {limit}, (before, after)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=110)


@pytest.mark.parametrize(("name", "package", "extra"), [("a.h5", "h5py", "hdf5"), ("a.zarr", "zarr", "zarr")])
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if package == "zarr":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(DataError) as caught:
        on_disk(tmp_path / name)
    assert package in str(caught.value)
    assert caught.value.hint == f"pip install 'noether-train[{extra}]'"


def test_what_cannot_be_mapped_is_refused_with_the_way_out(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "small.npz", x=np.zeros(3))
    np.save(tmp_path / "columns.npy", np.asfortranarray(np.zeros((3, 2))))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "noise.npy").write_bytes(b"noise" * 100)
    (tmp_path / "table.csv").touch()
    for name in ("small.npz", "columns.npy", "text.npy", "objects.npy", "empty.npy", "noise.npy", "table.csv", "no.h5"):
        with pytest.raises(DataError) as caught:
            on_disk(tmp_path / name)
        assert name in str(caught.value)
        assert caught.value.hint


@pytest.mark.timeout(20)
def test_a_pipe_among_the_files_of_a_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(3))
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(DataError, match=r"pipe\.npy is a pipe"):
        on_disk(tmp_path)


def test_an_hdf5_array_without_values_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=h5py.Empty("f4"))
    with pytest.raises(DataError, match="found no values"):
        on_disk(tmp_path / "a.h5")


def test_a_single_number_and_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(()))
    with pytest.raises(DataError, match="no dimension"):
        on_disk(tmp_path / "x.npy")
    np.savez(tmp_path / "a.npz", x=np.zeros(3), y=np.zeros(4))
    with pytest.raises(DataError, match="x: 3, y: 4"):
        on_disk(tmp_path / "a.npz")


@given(data=st.data())
def test_a_damaged_header_is_an_error_and_never_a_crash(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    name = data.draw(st.sampled_from(["a.safetensors", "a.npz", "a.npy"]))
    held = {"x": np.arange(12.0).reshape(4, 3)}
    if name == "a.npy":
        np.save(folder / name, held["x"])
    else:
        SAVE[name](folder / name, held)
    content = bytearray((folder / name).read_bytes())
    for place in data.draw(st.lists(st.integers(0, min(len(content) - 1, 150)), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(content)
    try:
        stored = on_disk(folder / name)
        for index in range(min(len(stored), 10)):
            stored[index]
    except DataError as error:
        assert str(folder / name) in str(error)
