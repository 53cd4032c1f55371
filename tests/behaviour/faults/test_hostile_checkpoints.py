"""Untrusted checkpoints: reading one executes nothing, follows no links, and reports the problem at once.

Whoever writes a checkpoint can hash it too, so every forged step here has a manifest whose own hash is right.
"""

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import socket
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import noether
from noether.checkpoint.saved import CheckpointNames, SavedCheckpoint
from noether.core.initializers.weights import read_weights
from noether.data.sources.columns import read_arrays
from noether.errors import CheckpointError, DataError

SECONDS = 0.5
MEMORY_KB = 400 << 10  # what one case may add to the highest use so far
MIB = 1 << 20
NAMES = ("model.safetensors", "optimizer.safetensors", "trainer.json", "rank-00000.json", "manifest.json")
_EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
_EXECUTES += ("pickle.find_class",)
_executed: list[str] = []
_watching = False


def _watch(event: str, arguments: Any) -> None:
    if _watching and event in _EXECUTES:
        _executed.append(f"{event} {arguments}")


sys.addaudithook(_watch)  # cannot be taken away again, hence the switch


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def zip_bomb() -> bytes:
    """Return a torch file whose only record unpacks to 256 MiB."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
        archive.writestr("archive/data/0", bytes(64 * MIB))
    return packed.getvalue()


def torch_file() -> bytes:
    packed = io.BytesIO()
    torch.save({"weight": torch.zeros(3), "bomb": Bomb()}, packed)
    return packed.getvalue()


def tensor_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def described(shape: Any = (1,), offsets: Any = (0, 4), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


FOUR = bytes(4)
PICKLES = {"a pickle": pickle.dumps(Bomb()), "a torch file": torch_file(), "a zip bomb": zip_bomb()}
TENSORS = PICKLES | {
    "nothing": b"",
    "three bytes": b"abc",
    "a header of ten gigabytes": tensor_file({}, length=10 << 30),
    "a header of all bytes": tensor_file({}, length=(1 << 64) - 1),
    "a header that is longer than the file": tensor_file({"a": described()}, FOUR, 500),
    "a header that is really long": tensor_file(b"{" + b" " * (40 * MIB) + b"}"),
    "a header of a million tensors": tensor_file(
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(250_000)) + b"}"
    ),
    "a header that is no JSON": tensor_file(b"\x80\x04cos\nsystem\n"),
    "a header that is a list": tensor_file([]),
    "a header that is deep": tensor_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a header that is not UTF-8": tensor_file(b'{"\xff\xfe": {}}'),
    "a tensor without a shape": tensor_file({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, FOUR),
    "a tensor that is a number": tensor_file({"a": 5}),
    "one name twice": tensor_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        FOUR,
    ),
    "tensors that overlap": tensor_file({"a": described(), "b": described()}, FOUR),
    "a gap": tensor_file({"a": described(), "b": described(offsets=(8, 12))}, FOUR * 3),
    "negative offsets": tensor_file({"a": described(offsets=(-4, 0))}, FOUR),
    "offsets the other way": tensor_file({"a": described(offsets=(4, 0))}, FOUR),
    "offsets beyond the end": tensor_file({"a": described((1 << 30,), (0, 1 << 32))}, FOUR),
    "offsets beyond all": tensor_file({"a": described((1 << 60,), (0, 1 << 62))}, FOUR),
    "offsets that are text": tensor_file({"a": described(offsets=("0", "4"))}, FOUR),
    "bytes behind the last tensor": tensor_file({"a": described()}, FOUR + pickle.dumps(Bomb())),
    "a shape of 2 to the 62": tensor_file({"a": described((1 << 62,))}, FOUR),
    "a shape whose product overflows to 1": tensor_file({"a": described((1 << 32, 1 << 32))}, FOUR),
    "a shape of nothing by very much": tensor_file({"a": described((1 << 62, 0, 1 << 62), (0, 0))}),
    "a shape beyond 64 bits": tensor_file({"a": described((1 << 70, 0), (0, 0))}),
    "a negative shape": tensor_file({"a": described((-1,))}, FOUR),
    "two negative shapes": tensor_file({"a": described((-1, -1))}, FOUR),
    "ten thousand dimensions": tensor_file({"a": described((1,) * 10_000)}, FOUR),
    "a shape of fractions": tensor_file({"a": described((1.5,))}, FOUR),
    "a shape of truths": tensor_file({"a": described((True,))}, FOUR),
    "an unknown type": tensor_file({"a": described(dtype="os.system")}, FOUR),
    "a type that torch lacks": tensor_file({"a": described((8,), (0, 4), "F4")}, FOUR),
    "objects": tensor_file({"a": described(dtype="O")}, FOUR),
    "metadata that is a table": tensor_file({"__metadata__": {"a": {"b": 1}}, "a": described()}, FOUR),
}
JSON = PICKLES | {
    "nothing": b"",
    "lists in lists": b"[" * 200_000 + b"]" * 200_000,
    "objects in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "objects of 65 levels": b'{"a":' * 65 + b"1" + b"}" * 65,
    "many empty lists": b'{"callbacks":[' + b"[]," * (8 * MIB) + b"[]]}",
    "one text of forty megabytes": b'{"a":"' + b"a" * (40 * MIB) + b'"}',
    "a number of a million digits": b'{"a":' + b"9" * 1_000_000 + b"}",
    "numbers that JSON lacks": b'{"trainer":{"a":NaN},"optimizer":{},"callbacks":{}}',
    "a key twice": b'{"trainer":{},"trainer":{},"optimizer":{},"callbacks":{}}',
    "another encoding": '{"a": 1}'.encode("utf-16"),
    "no UTF-8": b'{"\xff":1}',
    "a number": b"5",
    "a list": b"[]",
    "a text with code": b"\"__import__('os').system('touch executed')\"",
}
PATHS = {
    "absolute": "/etc/passwd",
    "of the parent": "../../../canary",
    "through the parent": "callbacks/../../../../canary",
    "of this folder": "./model.safetensors",
    "of itself": ".",
    "of the parent alone": "..",
    "empty": "",
    "with an empty part": "callbacks//a",
    "with a slash at its end": "callbacks/",
    "with a NUL": "model\0.safetensors",
    "that is an option": "-rf",
    "that is hidden": ".bashrc",
    "with a line end": "a\nerror: fine",
    "with a terminal's escape": "\x1b[2J\x1b]0;owned\x07",
    "with a direction mark": "abc\u202efdp",
    "of look-alikes": "m\u043edel.safetensors",
    "not composed": "e\u0301",
    "with backslashes": "..\\..\\canary",
    "with a drive": "C:canary",
    "of a hundred thousand characters": "a" * 100_000,
    "of a hundred thousand parts": "a/" * 100_000 + "a",
    "with a lone surrogate": "\udcff",
    "of a process": "/proc/self/mem",
}
VALUES: dict[str, dict[str, Any]] = {
    "an update that is a path": {"update": "../../canary"},
    "an epoch that is a path": {"epoch": "../../canary"},
    "a negative update": {"update": -1},
    "an update that is true": {"update": True},
    "an update beyond 64 bits": {"update": 1 << 70},
    "an update of four thousand digits": {"update": 10**4000},
    "an update that is a fraction": {"update": 0.5},
    "another step's update": {"update": 7},
    "a list in place of files": {"files": ["model.safetensors"]},
    "files without records": {"files": {"model.safetensors": None}},
    "a name for nothing": {"names": {"last": None}},
    "a name for a path": {"names": {"last": {"update": 6, "weights": "../../../../canary"}}},
    "a name for an absolute path": {"names": {"last": {"update": 6, "weights": "/etc/passwd"}}},
    "a name for a step that is a path": {"names": {"last": {"update": "../..", "weights": "model.safetensors"}}},
    "a name with code": {"names": {"last": {"update": 6, "weights": "model.safetensors", "__class__": "os"}}},
    "aliases in a circle": {"aliases": {"model.safetensors": {"a": "b", "b": "a"}}},
    "an alias of itself": {"aliases": {"model.safetensors": {"a": "a"}}},
    "an alias of an alias": {"aliases": {"model.safetensors": {"a": "b", "b": "layers.0.weight"}}},
    "an alias of nothing": {"aliases": {"model.safetensors": {"a": "nothing"}}},
    "an alias in place of a tensor": {"aliases": {"model.safetensors": {"layers.0.weight": "layers.0.bias"}}},
    "aliases of another file": {"aliases": {"/etc/passwd": {"a": "b"}}},
    "a million aliases": {"aliases": {"model.safetensors": dict.fromkeys(map(str, range(200_000)), "x")}},
    "a huge name": {"names": {"a" * 5_000_000: {"update": 6, "weights": "model.safetensors"}}},
    "a parent that is a path": {"parent": "../../canary"},
    "no processes": {"world_size": 0},
    "a later format": {"format": 99},
    "a format that is a text": {"format": "os.system"},
    "no resumable": {"resumable": "yes"},
    "one more field": {"__class__": "os.system"},
    "an earlier spec's hash that is a list": {"spec_sha256": []},
}
TREES: dict[str, Any] = {
    "a tensor that is not there": {"$tensor": "nothing"},
    "a tensor that is a list": {"$tensor": ["a"]},
    "a tensor that is a table": {"$tensor": {"$tensor": "a"}},
    "two marks": {"$tensor": "a", "$tuple": []},
    "a mark beside a value": {"$float": "nan", "a": 1},
    "an unknown mark": {"$python": "os.system"},
    "a tuple of text": {"$tuple": "abc"},
    "a tuple of a number": {"$tuple": 5},
    "items that are none": {"$items": 5},
    "items that are no pairs": {"$items": [[1, 2, 3]]},
    "items of text": {"$items": ["ab"]},
    "items whose keys are lists": {"$items": [[[1], 2]]},
    "items whose keys are tables": {"$items": [[{}, 2]]},
    "a number that is none": {"$float": "__import__"},
    "a number that is a list": {"$float": ["nan"]},
    "a number with a million digits": {"$float": "9" * 1_000_000},
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last checkpoint has every part; made once, copied for each case."""
    place = tmp_path_factory.mktemp("template")
    rng = np.random.default_rng(0)
    for key in ("train", "test"):
        np.savez(place / f"{key}.npz", x=rng.normal(size=(48, 3)), y_target=rng.normal(size=(48, 2)))
    outcome = noether.run(spec_of(place), run_id="template", quiet=True)
    assert outcome.status == "FINISHED"
    return place


def spec_of(place: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "device": "cpu",
        "threads": 1,
        "output": str(place / "runs"),
        "datasets": {key: {"kind": "file", "path": str(place / f"{key}.npz")} for key in ("train", "test")},
        "transforms": [{"kind": "normalize", "properties": ["x"]}],
        "model": {"kind": "mlp", "hidden": [8], "optimizer": {"kind": "AdamW", "lr": 0.01}},
        "trainer": {
            "kind": "weighted-loss",
            "max_epochs": 1,
            "effective_batch_size": 8,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "callbacks": [
                {"kind": "online-loss", "every_n_updates": 4},
                {"kind": "ema", "every_n_updates": 2, "target_factors": [0.5]},
                {"kind": "checkpoint", "every_n_epochs": 1},
            ],
        },
        "trackers": [{"kind": "noop"}],
    }


@pytest.fixture
def run_dir(template: Path, workplace: Path) -> Path:
    """A copy of that run; beside it lies a canary, in the working folder nothing yet."""
    (workplace / "canary").write_bytes(b"canary")
    shutil.copytree(template / "runs", workplace / "runs")
    return workplace / "runs/template"


@pytest.fixture
def step(run_dir: Path) -> Path:
    return max((run_dir / "checkpoints").glob("step-*"))


@pytest.fixture(autouse=True)
def nothing_is_executed(workplace: Path) -> Iterator[None]:
    global _watching
    _executed.clear()
    _watching = True
    yield
    _watching = False
    assert not _executed
    assert not (workplace / "executed").exists()
    if (workplace / "canary").exists():
        assert (workplace / "canary").read_bytes() == b"canary"


def forge(step: Path, written: dict[str, bytes] | None = None, **body: Any) -> None:
    """Write files into a checkpoint, and a valid manifest for them with `body`."""
    for name, data in (written or {}).items():
        (step / name).parent.mkdir(exist_ok=True)
        (step / name).write_bytes(data)
    stated = json.loads((step / "manifest.json").read_bytes())
    del stated["sha256"]
    for name, data in (written or {}).items():
        stated["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sign(step, stated | body)


def sign(step: Path, body: dict[str, Any]) -> None:
    with_digits(sys.maxsize)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (step / "manifest.json").write_text(json.dumps({**body, "sha256": digest}))
    with_digits(4300)


def with_digits(number: int) -> None:
    sys.set_int_max_str_digits(0 if number == sys.maxsize else number)


def stated(step: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((step / "manifest.json").read_bytes())
    del body["sha256"]
    return body


def told(read: Callable[[], Any], error: type[Exception] = CheckpointError) -> str:
    """Return the message about a checkpoint; check that it takes little time and memory."""
    seconds = []
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        start = time.process_time()
        with pytest.raises(error) as caught:
            read()
        seconds.append(time.process_time() - start)
        if seconds[-1] < SECONDS:
            break
    assert min(seconds) < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest < MEMORY_KB
    message = str(caught.value)
    assert len(message) < 20_000
    return message


def everything(step: Path) -> None:
    """Read a step as resuming does, then all that is left of it."""
    saved = SavedCheckpoint.open(step)
    saved.state()
    for name in saved.manifest.files:
        if name.endswith(".safetensors"):
            saved.tensors(name)


def test_the_template_is_sound(step: Path):
    everything(step)
    forge(step)
    everything(step)


@pytest.mark.parametrize("data", TENSORS.values(), ids=TENSORS)
def test_tensors_of_a_stranger(step: Path, data: bytes):  # M3
    forge(step, {"model.safetensors": data})
    message = told(lambda: everything(step))
    assert str(step) in message
    assert "model.safetensors" in message


@pytest.mark.parametrize("data", TENSORS.values(), ids=TENSORS)
def test_a_file_of_weights_of_a_stranger(workplace: Path, data: bytes):  # M3
    Path("stranger.safetensors").write_bytes(data)
    assert "stranger.safetensors" in told(lambda: read_weights(Path("stranger.safetensors"), "latest"))
    assert "stranger.safetensors" in told(lambda: read_arrays(Path("stranger.safetensors"), None), DataError)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "weights.bin", "weights.ckpt", "weights.pkl"])
@pytest.mark.parametrize("data", PICKLES.values(), ids=PICKLES)
def test_other_formats_are_not_opened(workplace: Path, name: str, data: bytes, monkeypatch: pytest.MonkeyPatch):  # M7
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    Path(name).write_bytes(data)
    assert "can hold code" in told(lambda: read_weights(Path(name), "latest"))


@pytest.mark.parametrize("name", ["trainer.json", "rank-00000.json"])
@pytest.mark.parametrize("data", JSON.values(), ids=JSON)
def test_json_of_a_stranger(step: Path, name: str, data: bytes):  # M3
    forge(step, {name: data})
    message = told(lambda: everything(step))
    assert str(step) in message
    assert name in message


@pytest.mark.parametrize("data", JSON.values(), ids=JSON)
def test_a_manifest_of_a_stranger(step: Path, data: bytes):  # M3
    (step / "manifest.json").write_bytes(data)
    assert str(step) in told(lambda: everything(step))
    assert str(step.parent) in told(
        lambda: CheckpointNames(step.parent).load("latest", lambda found: found.saved.state())
    )


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_paths_in_a_manifest(step: Path, path: str):  # M1, M3
    body = stated(step)
    body["files"][path] = {"size": 6, "sha256": hashlib.sha256(b"canary").hexdigest()}
    sign(step, body)
    assert str(step) in told(lambda: everything(step))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_ids_of_callbacks_in_a_state(step: Path, path: str):  # M1
    tree = json.loads((step / "trainer.json").read_bytes())
    tree["callbacks"][path] = {"a": 1}
    forge(step, {"trainer.json": json.dumps(tree).encode()})
    assert "trainer.json" in told(lambda: everything(step))


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_values_in_a_manifest(step: Path, values: dict[str, Any]):  # M3
    forge(step, None, **values)
    assert str(step) in told(lambda: everything(step))


@pytest.mark.parametrize("record", [{"size": -1}, {"size": True}, {"size": 1 << 62}, {"size": 5}, {"sha256": "x"}])
def test_records_in_a_manifest(step: Path, record: dict[str, Any]):  # M3
    body = stated(step)
    body["files"]["model.safetensors"] |= record
    sign(step, body)
    assert str(step) in told(lambda: everything(step))


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
@pytest.mark.parametrize("place", ["trainer", "optimizer", "callbacks"])
def test_trees_that_lie(step: Path, place: str, tree: Any):  # M3
    found = json.loads((step / "trainer.json").read_bytes())
    found[place]["online-loss"] = tree
    forge(step, {"trainer.json": json.dumps(found).encode()})
    assert str(step) in told(lambda: everything(step))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    kept = path.rename(path.parents[3] / path.name)  # even to the very bytes that the manifest vouches for
    path.symlink_to(kept)


def circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def listener(path: Path) -> None:
    path.unlink()
    place = Path.cwd()
    os.chdir(path.parent)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.chdir(place)


def device(path: Path) -> None:
    path.unlink()
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        path.symlink_to("/dev/zero")


def terabyte(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(1 << 40)  # takes no place on the disk


def gigabyte(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(1 << 30)


KINDS = (fifo, link, circle, folder, listener, device, terabyte, gigabyte, Path.unlink)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_special_files_are_neither_followed_nor_waited_for(step: Path, name: str, make: Callable[[Path], None]):  # M3
    make(step / name)
    message = told(lambda: everything(step))
    assert name in message
    assert str(step) in message


def test_a_file_as_large_as_its_manifest_says_is_not_read_if_it_is_larger_than_the_memory(step: Path):  # M3
    terabyte(step / "model.safetensors")
    body = stated(step)
    body["files"]["model.safetensors"]["size"] = 1 << 40
    sign(step, body)
    assert "model.safetensors" in told(lambda: everything(step))


def test_a_folder_of_a_step_that_is_a_link_is_not_followed(step: Path):  # M3
    (step / "callbacks").rename(step.parents[2] / "elsewhere")
    (step / "callbacks").symlink_to(step.parents[2] / "elsewhere")
    assert "symbolic link" in told(lambda: everything(step))


@pytest.mark.parametrize("make", [fifo, terabyte, folder, device])
def test_a_file_of_weights_that_is_no_plain_file(workplace: Path, make: Callable[[Path], None]):  # M3
    path = Path("stranger.safetensors")
    path.touch()
    make(path)
    assert "stranger.safetensors" in told(lambda: read_weights(path, "latest"))


def test_the_user_may_name_weights_by_a_link(workplace: Path):
    Path("kept").write_bytes(save({"a": torch.ones(1)}))
    Path("weights.safetensors").symlink_to("kept")
    assert read_weights(Path("weights.safetensors"), "latest").tensors["a"] == 1


def random_state(step: Path, **parts: Any) -> None:
    found = json.loads((step / "rank-00000.json").read_bytes())
    forge(step, {"rank-00000.json": json.dumps(found | parts).encode()})


def optimizer_state(step: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    tensors = load((step / "optimizer.safetensors").read_bytes())
    changed = {name: change(name, tensor).contiguous() for name, tensor in tensors.items()}
    forge(step, {"optimizer.safetensors": save(changed)})


def trainer_state(step: Path, **parts: Any) -> None:
    found = json.loads((step / "trainer.json").read_bytes())
    forge(step, {"trainer.json": json.dumps(found | parts).encode()})


NUMPY = ["MT19937", [0] * 624, 0, 0, 0.0]
RESUMED: dict[str, Callable[[Path], None]] = {
    "a generator of no bytes": lambda step: random_state(step, torch=""),
    "a generator of few bytes": lambda step: random_state(step, torch="00" * 100),
    "a generator of many bytes": lambda step: random_state(step, torch="00" * 100_000),
    "a generator of other bytes": lambda step: random_state(step, torch="ff" * 5056),
    "a generator of text": lambda step: random_state(step, torch="os.system"),
    "a generator that is a list": lambda step: random_state(step, torch=[]),
    "Python's generator too short": lambda step: random_state(step, python=[3, [1, 2], None]),
    "Python's generator at a wrong place": lambda step: random_state(step, python=[3, [1] * 624 + [10**6], None]),
    "Python's generator of text": lambda step: random_state(step, python=["a", ["b"], None]),
    "no generator": lambda step: random_state(step, python=None),
    "numpy's generator beyond its end": lambda step: random_state(step, numpy=[*NUMPY[:2], 10**6, 0, 0.0]),
    "numpy's generator before its begin": lambda step: random_state(step, numpy=[*NUMPY[:2], -5, 0, 0.0]),
    "numpy's generator too short": lambda step: random_state(step, numpy=["MT19937", [1], 0, 0, 0.0]),
    "another generator of numpy": lambda step: random_state(step, numpy=["os.system", *NUMPY[1:]]),
    "optimizer tensors of no dimension": lambda step: optimizer_state(step, lambda _, t: t.flatten()[:1]),
    "optimizer tensors of one more dimension": lambda step: optimizer_state(step, lambda _, t: t[None]),
    "optimizer tensors of another size": lambda step: optimizer_state(
        step, lambda name, t: t if name.endswith("step") else torch.zeros(7)
    ),
    "weights of another size": lambda step: forge(
        step,
        {"model.safetensors": save({name: torch.zeros(3) for name in load((step / "model.safetensors").read_bytes())})},
    ),
    "averages of another size": lambda step: forge(
        step,
        {
            "callbacks/ema/0.5.safetensors": save(
                {name: torch.zeros(3) for name in load((step / "callbacks/ema/0.5.safetensors").read_bytes())}
            )
        },
    ),
    "statistics of nothing": lambda step: forge(step, {"data.safetensors": save({"a": torch.zeros(3)})}),
    "no counters": lambda step: trainer_state(step, trainer={}),
    "other counters": lambda step: trainer_state(step, trainer={"epoch": 5, "update": 10**9, "sample": -1}),
    "no groups": lambda step: trainer_state(step, optimizer={"model": {}}),
    "groups of text": lambda step: trainer_state(step, optimizer={"model": {"groups": "abc", "state": "abc"}}),
    "another optimizer": lambda step: trainer_state(step, optimizer={"other": {}}),
    "a callback's state of another shape": lambda step: trainer_state(step, callbacks={"online-loss": [5]}),
}


@pytest.mark.parametrize("change", RESUMED.values(), ids=RESUMED)
def test_a_state_that_does_not_fit_ends_the_run_before_it_trains(
    template: Path, step: Path, change: Callable[[Path], None]
):  # M3
    change(step)
    where = {"kind": "resume", "path": str(step)}
    spec = spec_of(template) | {"output": str(step.parents[2]), "initializer": where}
    with pytest.raises((CheckpointError, DataError)) as caught:
        outcome = noether.run(spec, set={"trainer.max_epochs": 2}, quiet=True)
        metrics = outcome.run_dir / "metrics.jsonl"
        assert not metrics.exists() or not metrics.read_bytes()
        assert outcome.error is not None, "the run has trained"
        raise outcome.error  # what is found while the state is restored, and not before the run has a folder
    assert step.name in str(caught.value)


def npz(**arrays: Any) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def npz_with_header(header: str, data: bytes = b"") -> bytes:
    """Return an archive with an array of the given header."""
    packed = io.BytesIO()
    text = header.encode()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    return packed.getvalue()


DATA = {
    "objects.npz": npz(x=np.array([Bomb(), None], dtype=object)),
    "nested objects.npz": npz(x=np.array([(1, Bomb())], dtype=[("a", "i4"), ("b", object)])),
    "pickle.npz": pickle.dumps(Bomb()),
    "torch.npz": torch_file(),
    "huge shape.npz": npz_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }\n"),
    "large shape.npz": npz_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,), }\n"),
    "negative shape.npz": npz_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
    "code.npz": npz_with_header("__import__('os').system('touch executed')\n"),
    "deep header.npz": npz_with_header("(" * 30_000 + "\n"),
    "text.npz": npz(x=np.array(["a", "b"])),
    "nothing.npz": b"",
    "pickle.parquet": pickle.dumps(Bomb()),
    "nothing.parquet": b"",
    "a footer of four gigabytes.parquet": b"PAR1" + bytes(100) + struct.pack("<I", (1 << 32) - 1) + b"PAR1",
    "a footer of noise.parquet": b"PAR1" + bytes(range(256)) + struct.pack("<I", 256) + b"PAR1",
}


@pytest.mark.parametrize("name", DATA)
def test_data_of_a_stranger(workplace: Path, name: str):  # M3
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    Path(name).write_bytes(DATA[name])
    assert name in told(lambda: read_arrays(Path(name), None), DataError)
