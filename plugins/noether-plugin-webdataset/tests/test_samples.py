"""Samples: members and their formats, agreement with webdataset's own reader, samples of different sizes."""

import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from noether_plugin_webdataset.dataset import ShardDataset, ShardDatasetConfig
from PIL import Image
from safetensors.torch import save as safetensors

from noether.errors import DataError


def opened(shards: Path | str | list[str], **options) -> ShardDataset:
    shards = [str(one) for one in shards] if isinstance(shards, list) else str(shards)
    return ShardDataset(ShardDatasetConfig(kind="webdataset", shards=shards, **options))


def npy(values) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values))
    return stream.getvalue()


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def image(pixels: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(stream, form)
    return stream.getvalue()


def test_each_format_is_decoded(shard):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    path = shard(
        {
            "a.p.npy": npy(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
            "a.flow.npz": npz(u=np.float32([1, 2]), wet=np.array([True, False])),
            "a.safetensors": safetensors(
                {
                    "w": torch.tensor([3], dtype=torch.int32),
                    "half": torch.tensor([0.5], dtype=torch.bfloat16),
                    "many": torch.tensor([2**40], dtype=torch.uint64),
                }
            ),
            "a.json": json.dumps({"angle": 1.5, "steps": 3, "grid": [[1, 2], [3, 4]]}).encode(),
            "a.cls": b"7\n",
            "a.PNG": image(pixels),
            "a.mask.png": image(pixels[:, :, 0] > 50),
        }
    )
    sample = opened(path)[0]
    expected = {
        "p": torch.arange(6.0).reshape(2, 3),
        "flow.u": torch.tensor([1.0, 2.0]),
        "flow.wet": torch.tensor([True, False]),
        "half": torch.tensor([0.5]),
        "many": torch.tensor([2**40]),
        "w": torch.tensor([3]),
        "angle": torch.tensor(1.5),
        "steps": torch.tensor(3),
        "grid": torch.tensor([[1, 2], [3, 4]]),
        "cls": torch.tensor(7),
        "png": torch.from_numpy(pixels.astype("f4") / np.float32(255)).permute(2, 0, 1),
        "mask": torch.from_numpy((pixels[None, :, :, 0] > 50).astype("f4")),
    }
    assert list(sample) == list(expected)
    for name, values in expected.items():
        assert sample[name].dtype == values.dtype and torch.equal(sample[name], values), name


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_an_image_is_float32_with_its_channels_first(shard, mode: str):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    found = opened(shard({"a.png": image(pixels, mode=mode)}))[0]["png"]
    assert found.shape == ({"L": 1, "LA": 2, "RGBA": 4}.get(mode, 3), 4, 5) and found.dtype == torch.float32
    jpeg = opened(shard({"a.jpg": image(pixels, "JPEG")}, "jpeg.tar"))[0]["jpg"]
    assert jpeg.shape == (3, 4, 5) and jpeg.min() >= 0 and jpeg.max() <= 1


def test_samples_are_those_that_webdataset_reads(tmp_path: Path):
    """Keys with folders and long names, times that need extended headers, and members that are none of a sample."""
    draw = np.random.default_rng(0)
    with webdataset.ShardWriter(str(tmp_path / "s-%02d.tar"), maxcount=4, verbose=0) as writer:
        for sample in range(10):
            key = f"wing/{'long' * (30 * (sample % 2))}{sample:03d}"
            writer.write({"__key__": key, "x.npy": draw.random((2, 2)), "cls": sample, "txt": "a wing"})
    theirs = webdataset.WebDataset(sorted(map(str, tmp_path.glob("*.tar"))), shardshuffle=False).decode()
    ours = opened(tmp_path, properties={"x": "x", "label": "cls"})
    batch = ours.__getitems__(range(10))
    expected = [(one["x.npy"], one["cls"]) for one in theirs]
    assert len(ours) == len(expected) == 10
    assert torch.equal(batch["x"], torch.tensor(np.stack([x for x, _ in expected]), dtype=torch.float32))
    assert batch["label"].tolist() == [label for _, label in expected]
    full = ours.in_full().__getitems__([3])["x"]
    assert full.dtype == torch.float64 and np.array_equal(full[0].numpy(), expected[3][0])


def test_shards_are_named_by_braces_stars_folders_and_lists(tiny_shards: Path):
    every = opened(tiny_shards)
    files = sorted(tiny_shards.glob("*.tar"))
    for shards in (
        f"{tiny_shards}/tiny-{{000000..000004}}.tar",
        f"{tiny_shards}/*.tar",
        sorted(map(str, tiny_shards.glob("*.tar"))),
    ):
        same = opened(shards)
        assert same.config.compared_files() == every.config.compared_files() == files
        assert len(same) == len(every) == 24
        assert torch.equal(same.__getitems__([17, 0])["x"], every.__getitems__([17, 0])["x"])
    assert opened(f"{tiny_shards}/tiny-{{000003,000000}}.tar")[0]["x"].equal(every[15]["x"])
    remote = ShardDatasetConfig(kind="webdataset", shards="https://example.org/{0..9}.tar")
    assert remote.compared_files() is None


def test_several_numbers_are_put_side_by_side(shard):
    rows = {f"{row}.json": json.dumps({"x": row, "y": row + 0.5, "name": "wing"}).encode() for row in range(3)}
    data = opened(shard(rows), properties={"points": ["x", "y"], "y_target": "y"})
    assert data.__getitems__([2, 0])["points"].tolist() == [[2, 2.5], [0, 0.5]]
    assert data.holds_doubles and data.in_full()[1]["y_target"].dtype == torch.float64


def test_an_integer_stands_for_a_float_but_not_the_reverse(shard):
    ones = [b"1.0", b"2"]
    first = opened(shard({f"{row}.json": text for row, text in enumerate(ones)}))
    assert first.__getitems__([0, 1])["json"].tolist() == [1.0, 2.0]
    second = opened(shard({f"{row}.json": text for row, text in enumerate(reversed(ones))}, "b.tar"))
    with pytest.raises(DataError, match="first sample"):
        second.__getitems__([0, 1])


def test_samples_of_different_sizes_are_refused_or_padded(shard, tiny_run):
    rows = {}
    for row in range(8):
        rows[f"{row}.points.npy"] = npy(np.ones((2 + row % 3, 3)))
        rows[f"{row}.p_target.npy"] = npy(np.ones((2 + row % 3, 1)))
    path = str(shard(rows))
    with pytest.raises(DataError, match="pad"):
        opened(path).__getitems__([0, 1])
    spread = opened(path).spread(8)
    assert spread.properties["points"].shape == (8, 3)
    tiny_run(
        datasets={"train": {"kind": "webdataset", "shards": path, "collate": "pad"}, "test": None},
        transforms=[{"kind": "normalize", "properties": ["points"]}],
        model={"kind": "torch.nn.Linear", "in_features": 3, "hidden": None, "out_features": 1},
        trainer={
            "forward_properties": ["points"],
            "target_properties": ["p_target"],
            "field_weights": {"y": None, "p": 1.0},
            "max_updates": 2,
        },
    )


def test_memory_is_that_of_a_batch(tmp_path: Path):
    """48 MiB in shards of 4 MiB, read at random in batches of 1 MiB."""
    draw = np.random.default_rng(0)
    values = draw.random((48, 1 << 17))
    for file in range(12):
        with webdataset.TarWriter(str(tmp_path / f"{file:02d}.tar")) as writer:
            for row in range(4 * file, 4 * file + 4):
                writer.write({"__key__": str(row), "x.npy": values[row]})
    data = opened(tmp_path)
    tracemalloc.start()
    try:
        for row in draw.permutation(48).tolist():
            assert np.array_equal(data.__getitems__([row])["x"][0].numpy(), values[row].astype("f4"))
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_shards_differ_in_size_and_one_may_be_empty(tmp_path: Path):
    """A block is 16 MiB of samples, at most a shard."""
    for file, size in enumerate((0, 5, 0, 7, 1)):
        with webdataset.TarWriter(str(tmp_path / f"[{file}].tar")) as writer:
            for row in range(size):
                writer.write({"__key__": str(row), "cls": 10 * file + row})
    data = opened(tmp_path)
    assert data.__getitems__([12, 4, 5, 0])["cls"].tolist() == [40, 14, 30, 10]
    assert len(opened(tmp_path / "[3].tar")) == data.shuffle_block == 7
    assert opened(tmp_path, shuffle_block=2).shuffle_block == 2


def test_an_array_may_have_no_numbers(shard):
    assert opened(shard({"a.x.npy": npy(np.empty((0, 3)))}))[0]["x"].shape == (0, 3)
