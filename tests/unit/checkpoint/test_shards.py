"""Sharded files: all ranks write them together or not at all, and a reader believes no index."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest
import torch

from noether.checkpoint import commit as committing
from noether.checkpoint.commit import CheckpointFolder, SharedSave
from noether.checkpoint.manifest import Manifest, index_file, part_file, whole_file
from noether.checkpoint.saved import SavedCheckpoint
from noether.checkpoint.shards import Parts, ShardedTensors
from noether.checkpoint.tensor_file import TensorFile
from noether.errors import CheckpointError, StorageError

FILE = "model.safetensors"
WORLD = 2
HALVES = [torch.arange(6.0).view(3, 2), torch.arange(6.0, 10.0).view(2, 2)]


class Threads:
    """Ranks that are threads of this process."""

    def __init__(self, rank, meet, box):
        self.rank, self.world, self._meet, self._box = rank, WORLD, meet, box

    def gather(self, value):
        self._box[self.rank] = value
        self._meet.wait(10)
        found = list(self._box)
        self._meet.wait(10)
        return found

    def share(self, value):
        return self.gather(value)[0]


def index(parts=None, **changes):
    parts = [[0, [0, 0], [3, 2]], [1, [3, 0], [2, 2]]] if parts is None else parts
    entry = {"dtype": "F32", "shape": [5, 2], "parts": parts, **changes}
    return json.dumps({"tensors": {"weight": entry}, "aliases": {"tied": "weight"}, "values": None}).encode()


def save(folder):
    """Let two ranks save one tensor; return what each has returned or raised."""
    meet, box = Barrier(WORLD), [None] * WORLD
    files = {index_file(FILE): index()}

    def on(rank):
        parts = Parts({part_file(rank, FILE): TensorFile.of({"weight": HALVES[rank]})}, files)
        shared = SharedSave(parts, Threads(rank, meet, box))
        try:
            if rank:
                return shared.follow()
            return shared.lead(partial(folder.commit, files, Manifest(1, 2, 3, {}, world_size=WORLD)))
        except StorageError as error:
            return error

    with ThreadPoolExecutor(WORLD) as pool:
        return list(pool.map(on, range(WORLD)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    return CheckpointFolder(tmp_path / "checkpoints")


def test_two_ranks_write_one_checkpoint_that_one_process_reads(folder):
    checkpoint, nothing = save(folder)
    assert nothing is None
    found = SavedCheckpoint.open(checkpoint)
    assert found.manifest.holds == {FILE}
    tensors = found.tensors(FILE)
    assert torch.equal(tensors["weight"], torch.cat(HALVES))
    assert tensors["tied"] is tensors["weight"]


@pytest.mark.parametrize("failing", range(WORLD))
def test_nothing_is_committed_if_the_disk_of_one_rank_is_full(folder, monkeypatch, failing):
    write = committing.write_file

    def refuse(path, content):
        if part_file(failing, FILE) in path.as_posix():
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(committing, "write_file", refuse)
    errors = save(folder)
    assert all(isinstance(error, StorageError) for error in errors)
    assert all(f"No space left on device (rank {failing})" in str(error) for error in errors)
    assert list(folder.path.iterdir()) == []


def test_nothing_is_committed_if_rank_0_cannot_make_the_folder(folder):
    folder.prepare()
    folder.path.rmdir()
    errors = save(folder)
    assert all(isinstance(error, StorageError) for error in errors)
    assert "was removed" in str(errors[1])


@pytest.mark.parametrize("rank", range(WORLD))
def test_a_changed_part_is_found(folder, rank):
    checkpoint, _ = save(folder)
    path = checkpoint / part_file(rank, FILE)
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(CheckpointError) as error:
        SavedCheckpoint.open(checkpoint).tensors(FILE)
    assert part_file(rank, FILE) in str(error.value)


WRONG = {
    "not JSON": b"{",
    "no table": b"[]",
    "other keys": b'{"tensors": {}}',
    "a gap": index([[0, [0, 0], [3, 2]]]),
    "beyond the end": index([[0, [3, 0], [3, 2]], [1, [0, 0], [2, 2]]]),
    "a size below 0": index([[0, [0, 0], [-3, 2]]]),
    "other dimensions": index([[0, [0], [10]]]),
    "a type that is none": index(dtype="object"),
    "an enormous shape": index(shape=[1 << 40, 1 << 40]),
    "a shape that is none": index(shape="5x2"),
    "a part that is none": index([[0]]),
    "an alias without a target": json.dumps({"tensors": {}, "aliases": {"a": "b"}, "values": None}).encode(),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
def test_a_malformed_index_is_refused(data):
    with pytest.raises(ValueError):
        ShardedTensors(data, lambda rank: {}, lambda tree, state: state)


@pytest.mark.parametrize(
    "part", [{}, {"weight": torch.zeros(9, 9)}, {"weight": torch.zeros(3, 2, dtype=torch.int64)}], ids=str
)
def test_a_part_that_is_not_what_the_index_says_is_refused(part):
    tensors = ShardedTensors(index(), lambda rank: part, lambda tree, state: state)
    with pytest.raises(ValueError):
        tensors["weight"]


@pytest.mark.parametrize("path", [FILE, "callbacks/ema/0.9.safetensors"])
def test_each_part_and_each_index_names_its_file(path):
    assert whole_file(part_file(3, path)) == whole_file(index_file(path)) == whole_file(path) == path
