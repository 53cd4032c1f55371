"""The wording of the errors of checkpoints, in one place; other tests look at types and facts."""

import torch

from noether.checkpoint.durable import probe
from noether.checkpoint.manifest import Manifest
from noether.checkpoint.paths import PathProvider, read_file, read_manifest
from noether.checkpoint.retention import pin
from noether.checkpoint.saved import CheckpointNames, SavedCheckpoint
from noether.checkpoint.state import CheckpointState, callback_file
from noether.checkpoint.state_tree import split_state
from noether.checkpoint.tensor_file import TensorFile, decode_tensors
from noether.checkpoint.untrusted import parse_json, read_untrusted
from noether.checkpoint.writer import CheckpointWriter


def state(update):
    return CheckpointState(0, update, update, {"w": torch.zeros(2)}, {}, {}, {}, {}, {}, [{}])


def refused(writer):
    with writer.refusing("the weights are averages of 'ema'"):
        writer.save()


def test_messages(golden, tmp_path):
    writer = CheckpointWriter(PathProvider(tmp_path, "run"))
    writer.reserve("best_model.loss", "best")
    for update, parts in ((1, {}), (2, {"save_weights": False, "save_optim": False})):
        writer.save(**parts)
        writer.commit(state(update))
    whole, partial = writer.checkpoints
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{}")
    (damaged / "link").symlink_to("manifest.json")
    names = CheckpointNames(whole.parent)
    golden(
        {
            "an unknown name": lambda: names.find("E0_U3"),
            "no checkpoints": lambda: CheckpointNames(tmp_path / "none").find("latest"),
            "weights of a partial save": lambda: names.find("E0_U2_S2").tensors(),
            "a resume from a partial save": lambda: SavedCheckpoint.open(partial).state(),
            "a damaged manifest": lambda: read_manifest(damaged),
            "a newer format": lambda: Manifest.decode(newer(read_manifest(whole))),
            "a file that the manifest lacks": lambda: read_file(whole, read_manifest(whole), "weights.pt"),
            "a link": lambda: read_untrusted(damaged, "link"),
            "a file outside of the folder": lambda: read_untrusted(damaged, "../run"),
            "a size": lambda: read_untrusted(damaged, "manifest.json", size=3),
            "a key twice": lambda: parse_json(b'{"a": 1, "a": 2}'),
            "a deep tree": lambda: parse_json(b"[" * 70 + b"]" * 70),
            "a file that is not safetensors": lambda: decode_tensors(b"\xff" * 20, {}),
            "a state of another type": lambda: split_state({"seen": {1}}, "callback 'mine'"),
            "a tensor of another type": lambda: TensorFile.of({"w": torch.zeros(1).to_sparse()}),
            "a state file": lambda: callback_file("../ema", "0.9"),
            "a save while averages are in place": lambda: refused(writer),
            "a reserved name": lambda: writer.reserve("best_model.loss", "other"),
            "a pin": lambda: pin(whole.parent, 9),
            "a folder that does not exist": lambda: probe(tmp_path / "none"),
        }
    )


def newer(manifest):
    body = type(manifest)(
        **{name: getattr(manifest, name) for name in manifest.__slots__} | {"format": 3, "written_by": "9.8.7"}
    )
    return body.encode()
