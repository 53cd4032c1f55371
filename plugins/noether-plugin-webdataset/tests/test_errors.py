"""Shards that are damaged, hostile or changed end with one error that names their place and the way out."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from noether_plugin_webdataset import decode
from noether_plugin_webdataset.dataset import ShardDataset, ShardDatasetConfig
from noether_plugin_webdataset.index import SUFFIX
from PIL import Image
from safetensors.torch import save as safetensors

import noether
from noether.errors import DataError, SpecError
from noether.testing import tiny_spec


def opened(shards: Path | str, **options) -> ShardDataset:
    return ShardDataset(ShardDatasetConfig(kind="webdataset", shards=str(shards), **options))


def refused(shards: Path | str, *named: str, **options) -> None:
    with pytest.raises(DataError) as caught:
        opened(shards, **options)
    for one in named:
        assert one in str(caught.value)


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.parametrize(
    "member",
    [
        entry("b.cls", tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("b.cls", tarfile.LNKTYPE, linkname="a.cls"),
        entry("b.cls", tarfile.CHRTYPE),
        entry("b.cls", tarfile.FIFOTYPE),
        entry("../b.cls"),
        entry("/etc/b.cls"),
        entry("b.cls", b"Z"),
    ],
    ids=lambda member: f"{member.name} of type {member.type!r}",
)
def test_a_hostile_member(shard, member: tarfile.TarInfo):
    refused(shard({"a.cls": b"1", member.name: member}), "a.tar", member.name)


def test_a_member_that_is_larger_than_the_shard(shard):
    path = shard({"a.cls": b"1", "b.cls": b"2"})
    content = bytearray(path.read_bytes())
    content[1024:1536] = entry("b.cls", size=1 << 40).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)
    refused(path, "b.cls", str(path))
    content[1024:1536] = entry("b.cls", size=-4096).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)
    refused(path, str(path))


def test_a_header_that_claims_gigabytes_is_not_read(shard):
    path = shard({"a.cls": b"1"})
    header = entry("x", tarfile.XHDTYPE, size=3 << 30).tobuf()
    path.write_bytes(header + path.read_bytes())
    os.truncate(path, 4 << 30)  # without blocks of the disk
    refused(path, "header of")


@pytest.mark.parametrize("cut", [700, 1024, 1536])
def test_a_shard_that_is_cut_off(shard, cut: int):
    """Within a member, within a sample, and before the block that ends the file."""
    path = shard({"a.cls": b"1", "b.cls": b"2"}, format=tarfile.USTAR_FORMAT)
    os.truncate(path, cut)
    refused(path, str(path))


def test_a_damaged_header_does_not_end_the_shard_silently(shard):
    path = shard({"a.cls": b"1", "b.cls": b"2", "c.cls": b"3"})
    content = bytearray(path.read_bytes())
    content[1030] ^= 0xFF
    path.write_bytes(content)
    refused(path, "damaged header at byte 1024")


def test_a_compressed_shard(shard, tmp_path: Path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(shard({"a.cls": b"1"}).read_bytes()))
    refused(tmp_path / "a.tar.gz", "gzip")


def test_members_of_a_sample_that_do_not_follow_each_other(shard):
    refused(shard({"a.cls": b"1", "b.cls": b"1", "a.json": b"1"}), "a.json", "--sort=name")


def test_a_doubled_member(shard, tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.cls", "a.CLS"):
            archive.addfile(entry(name, size=1), io.BytesIO(b"1"))
    refused(tmp_path / "a.tar", "a.CLS")


@pytest.mark.parametrize("suffix", ["pickle", "pyd", "x.pkl", "pth"])
def test_a_pickle_is_refused_by_name(shard, suffix: str):
    path = shard({"a.cls": b"1", f"a.{suffix}": b"cos\nsystem\n(S'exit'\ntR."})
    refused(path, suffix, "may run code")
    refused(path, "may run code", properties={"x": suffix.partition(".")[0]})
    assert opened(path, properties={"label": "cls"})[0]["label"] == 1


def test_a_format_that_is_unknown(shard):
    path = shard({"a.cls": b"1", "a.txt": b"a wing"})
    refused(path, ".txt", "properties")
    refused(path, ".txt", properties={"x": "txt"})
    refused(path, "'clas'", "cls", properties={"x": "clas"})


def test_values_that_are_not_numbers(shard):
    path = shard({"a.json": json.dumps({"x": 1.0, "caption": "a wing", "gaps": [1, None]}).encode()})
    refused(path, "caption")
    refused(path, "gaps", properties={"x": "gaps"})
    assert len(opened(path, properties={"x": "x"})) == 1


def bomb() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    return stream.getvalue()


def hollow() -> bytes:
    """An array whose bytes lie behind the end of the file."""
    header = json.dumps({"a": {"dtype": "F64", "shape": [4], "data_offsets": [0, 32]}}).encode()
    return len(header).to_bytes(8, "little") + header + b"0" * 8


def objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    return stream.getvalue()


def grey16() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ones((2, 2), np.uint16)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        ("npy", b""),
        ("npy", bomb()),
        ("npy", objects()),
        ("npz", b"PK"),
        ("safetensors", b"\xff" * 16),
        ("safetensors", (1 << 40).to_bytes(8, "little") + b"{}"),
        ("safetensors", hollow()),
        ("safetensors", safetensors({"a": torch.ones(2, dtype=torch.complex64)})),
        ("json", b"{"),
        ("json", b"[" * 100_000),
        ("json", b'{"a": NaN}'),
        ("json", b'{"a": 1, "a": 2}'),
        ("cls", b"cat"),
        ("cls", b"1" * 100),
        ("cls", b"9" * 30),
        ("png", b"GIF89a"),
        ("png", grey16()),
        ("jpg", b"\xff\xd8\xff"),
    ],
)
def test_a_damaged_member(shard, suffix: str, content: bytes):
    refused(shard({f"a.{suffix}": content}), "a.tar", "sample 0")


def test_arrays_that_unpack_to_too_much(shard, monkeypatch: pytest.MonkeyPatch):
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.zeros(1000))
    path = shard({"a.npz": stream.getvalue()})
    assert len(opened(path)[0]["x"]) == 1000
    monkeypatch.setattr(decode, "_MOST_BYTES", 8000)
    refused(path, "unpacks to 81")


def test_a_header_of_safetensors_that_is_too_long(shard, monkeypatch: pytest.MonkeyPatch):
    path = shard({"a.safetensors": safetensors({"a": torch.ones(2)})})
    assert opened(path)[0]["a"].tolist() == [1, 1]
    monkeypatch.setattr(decode, "_MOST_HEADER", 16)
    refused(path, "sample 0", "at most 16")


@pytest.mark.parametrize("suffix", ["json", "x.cls"])
def test_a_sample_that_lacks_a_member(shard, suffix: str):
    path = shard({"a.cls": b"1", f"a.{suffix}": b"1", "b.cls": b"1"})
    refused(path, "1 of 2 samples", f".{suffix}")
    assert len(opened(path, properties={"label": "cls"})) == 2


def test_two_arrays_of_one_name(shard):
    refused(shard({"a.json": b'{"cls": 1}', "a.cls": b"1"}), "'cls'", ".json")


def test_places_without_shards(tmp_path: Path, shard):
    refused(tmp_path / "nothing.tar", "nothing.tar", "does not exist")
    refused(tmp_path, "no shards")
    refused(tmp_path / "*.tar", "no shards")
    for end in ("9" * 11, "9" * 5000):
        refused(tmp_path / f"{{0..{end}}}.tar", "too many")
    refused("ftp://example.org/a.tar", "ftp://", "copy")
    refused("file:///etc/passwd", "file://")
    refused("simplecache::http://example.org/a.tar", "simplecache")
    refused(shard({}), "no samples")
    path = shard({"a.cls": b"1"}, "b.tar")
    refused(f"{tmp_path}/b{{,}}.tar", "twice")
    with pytest.raises(DataError, match="several places"):
        ShardDataset(ShardDatasetConfig(kind="webdataset", shards=[str(path), "http://example.org/a.tar"]))
    os.mkfifo(tmp_path / "pipe.tar")
    refused(tmp_path / "pipe.tar", "pipe")


def test_a_shard_that_changes_during_the_run(shard):
    path = shard({"a.cls": b"1", "b.cls": b"2"})
    data = opened(path)
    with path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(DataError, match="has changed"):
        data.__getitems__([1])


def test_an_index_is_written_once_and_again_after_a_change(shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = shard({"a.cls": b"1"})
    index = Path(f"{path}{SUFFIX}")
    assert opened(path)[0]["cls"] == 1 and index.is_file()
    first = index.stat().st_ino
    opened(path)
    assert index.stat().st_ino == first
    path.unlink()
    shard({"b.cls": b"2", "c.cls": b"3"})
    assert opened(path).__getitems__([0, 1])["cls"].tolist() == [2, 3]
    assert opened(path, index=str(tmp_path / "index"))[0]["cls"] == 2
    assert len(list((tmp_path / "index").iterdir())) == 1
    for damage in (
        b"",
        b"\xff" * 100,
        index.read_bytes()[:-8],
        (1 << 40).to_bytes(8, "little") + b"{}",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        index_of_nothing(path),
    ):
        index.write_bytes(damage)
        assert opened(path)[1]["cls"] == 3
    index.unlink()
    index.mkdir()  # stands for a folder that cannot be written, which root would not mind
    assert opened(path)[1]["cls"] == 3
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused(path, "cannot be written", "`index`")


def index_of_nothing(shard: Path) -> bytes:
    """An index of a trillion samples without members, which fits the shard otherwise."""
    status = shard.stat()
    record = {"version": 1, "size": status.st_size, "stamp": str(status.st_mtime_ns), "suffixes": [], "lacking": {}}
    header = {"__metadata__": {"shard": json.dumps(record)}, "places": {"shape": [1 << 40, 0, 2]}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def test_an_index_that_points_out_of_the_shard(shard):
    path = shard({"a.cls": b"1"})
    opened(path)
    index = Path(f"{path}{SUFFIX}")
    for offset, size in ((1 << 40, 1), (-5, 5), (0, 1 << 40)):
        places = np.array([offset, size], np.int64).tobytes()
        index.write_bytes(index.read_bytes()[:-16] + places)
        refused(path, "index", "delete it")


@pytest.mark.parametrize("options", [{}, {"shards": ""}, {"shards": []}, {"shards": "a.tar", "shuffle_block": 0}])
def test_wrong_options_are_refused_with_the_spec(options):
    with pytest.raises(SpecError):
        noether.load_spec(tiny_spec(datasets={"train": {"kind": "webdataset", "part": None, **options}}))
