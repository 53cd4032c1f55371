"""`checkpoint export`: the weights as plain safetensors, or the model as a program; see `program`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from noether.checkpoint.durable import replace_file
from noether.checkpoint.names import Checkpoint, CheckpointNames
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import encode_state
from noether.checkpoint.tensor_file import IN_PAIRS
from noether.errors import UsageError
from noether.runs.checkpoints.program import program_of
from noether.runs.load import load_run

FORMATS = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}


def export(
    paths: PathProvider,
    *,
    checkpoint: str,
    averages: str | None = None,
    form: str = "safetensors",
    out: Path | None = None,
    transforms: bool = True,
    trusted: Iterable[str] = (),
    project: Path | None = None,
) -> tuple[Path, Checkpoint]:
    """Write the weights of a checkpoint, or the model with them, to one file.

    Args:
        paths: Paths of the run.
        checkpoint: Name of the checkpoint.
        averages: Take its averaged weights instead: the factor, `0.999`, or id and factor, `ema/0.999`.
        form: A key of `FORMATS`.
        out: File to write; by default one in the working folder, named after run and checkpoint.
        transforms: Put the transforms of the run inside a program.
        trusted: Further packages that dotted kinds may import, for a program.
        project: Project folder with the code that the spec names, for a program.

    Returns:
        The file, and the checkpoint.

    Raises:
        UsageError: if the file exists, or there is no such format.
        CheckpointError: if there is no such checkpoint, it is damaged, or it holds only a part of the weights.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format: found {form!r}, expected one of {', '.join(FORMATS)}")

    names = CheckpointNames(paths.checkpoint_path)
    if averages is not None:
        found = names.find(checkpoint).averaged(averages)
        tensors = found.tensors()
    else:
        found, tensors = names.load_weights(checkpoint)
    out = out or Path(f"{paths.run_id}.{found.position}{FORMATS[form]}")
    if out.exists():
        raise UsageError(f"{out} exists already", hint="choose another --out, or remove it first")
    if form == "safetensors":
        data = plain_safetensors(tensors)
    else:
        run = load_run(paths.run_path, trusted=trusted, project=project)
        data = program_of(run, form, checkpoint=checkpoint, averages=averages, transforms=transforms)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, data)
    return out, found


def plain_safetensors(tensors: Mapping[str, Any]) -> bytes:
    """Return a state as a safetensors file with every name; tied weights are written once for each of their names.

    The extra state of modules, and complex numbers of 64 bits, are kept in a form that only Noether reads.
    """
    from safetensors.torch import save

    separate = {name: value.clone() if isinstance(value, Tensor) else value for name, value in tensors.items()}
    if all(isinstance(value, Tensor) and value.dtype not in IN_PAIRS for value in separate.values()):
        return save({name: value.contiguous() for name, value in separate.items()}, metadata={"format": "pt"})
    return encode_state(separate)[0]
