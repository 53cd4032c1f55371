"""`checkpoint export`: the weights as plain safetensors, or the model as a `torch.export` program."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noether.checkpoint.durable import replace_file
from noether.checkpoint.names import Checkpoint, CheckpointNames
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import CALLBACKS, callback_file
from noether.core.models.base import ModelBase
from noether.core.models.weights import load_weights
from noether.data.batches import selected
from noether.data.container import DataContainer
from noether.errors import CheckpointError, TrainingError, UsageError
from noether.runs.prepare import preparation
from noether.runs.saved_spec import load_saved_spec
from noether.spec.model import RunSpec

FORMATS = {"safetensors": ".safetensors", "torch-export": ".pt2"}


def export(
    paths: PathProvider,
    *,
    checkpoint: str,
    averages: str | None = None,
    form: str = "safetensors",
    out: Path | None = None,
    trusted: Iterable[str] = (),
) -> tuple[Path, Checkpoint]:
    """Write the weights of a checkpoint, or the model with them, to one file.

    Args:
        paths: Paths of the run.
        checkpoint: Name of the checkpoint.
        averages: Take its averaged weights instead: the id of the callback and the factor, `ema/0.999`.
        form: A key of `FORMATS`.
        out: File to write; by default one in the working folder, named after run and checkpoint.
        trusted: Further packages that dotted kinds may import, for `torch-export`.

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
        found = with_averages(names.find(checkpoint), averages)
        tensors = found.tensors()
    else:
        found, tensors = names.load_weights(checkpoint)
    out = out or Path(_file_name(paths.run_id, found, FORMATS[form]))
    if out.exists():
        raise UsageError(f"{out} exists already", hint="choose another --out, or remove it first")
    if form == "safetensors":
        data = plain_safetensors(tensors)
    else:
        data = exported_program(paths, found, tensors, trusted=trusted)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, data)
    return out, found


def with_averages(found: Checkpoint, averages: str) -> Checkpoint:
    """Return the averaged weights of a checkpoint instead of its live ones.

    Args:
        found: The checkpoint.
        averages: Id of the callback and factor, `ema/0.999`.

    Raises:
        CheckpointError: if the checkpoint has no such averages; the message lists those that it has.
    """
    owner, _, factor = averages.rpartition("/")
    file = callback_file(owner, factor) if owner else ""
    if file not in found.saved.manifest.files:
        held = [name.removeprefix(f"{CALLBACKS}/") for name in found.saved.manifest.files if name.count("/") > 1]
        known = ", ".join(sorted(name.removesuffix(".safetensors") for name in held))
        raise CheckpointError(
            f"{found.saved.folder}: unknown averages: found {averages!r}, expected averages of the checkpoint",
            hint=f"it holds {known}" if known else "it holds none; `noether checkpoint list` shows other checkpoints",
        )
    return Checkpoint(found.saved, file)


def plain_safetensors(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors as a safetensors file with every name; tied weights are written once for each of their names."""
    from safetensors.torch import save

    separate: dict[str, Any] = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(separate, metadata={"format": "pt"})


def _file_name(run_id: str, found: Checkpoint, suffix: str) -> str:
    file = Path(found.weights)
    variant = f".{file.parent.name}={file.stem}" if file.parent.name else ""
    return f"{run_id}.{found.saved.manifest.iteration}{variant}{suffix}"


# The program

_TRACED, _CHECKED = 2, 3  # samples; torch.export takes a batch of one for a fixed size


class _ByPosition(nn.Module):
    """A model that is called with its forward properties in the order of the spec.

    Args:
        model: The model.
        names: The forward properties.
    """

    def __init__(self, model: ModelBase, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *properties: Tensor) -> object:
        """Call the model by name."""
        return self.model(**dict(zip(self.names, properties, strict=True)))


def exported_program(
    paths: PathProvider, found: Checkpoint, tensors: Mapping[str, Tensor], *, trusted: Iterable[str] = ()
) -> bytes:
    """Return a `.pt2` file: the model in evaluation mode, its inputs the forward properties in the spec's order.

    Shapes are those of the first samples of the data; the batch size stays open. The inputs are transformed samples.

    Args:
        paths: Paths of the run.
        found: The checkpoint, with the state of its transforms.
        tensors: Its weights.
        trusted: Further packages that dotted kinds may import.

    Raises:
        CheckpointError: if some weights of the model are missing.
        TrainingError: if the model cannot be exported, or the program computes other values.
    """
    loaded = load_saved_spec(paths, trusted=trusted)
    with preparation(loaded, device="cpu") as prepared:
        spec, data, model = prepared.parts()
        load_weights(model, tensors, found.path, hint="export a checkpoint of whole weights")
        data.load_state_dict(found.saved.data())
        inputs = _inputs(spec, data)
    called = _ByPosition(model, spec.trainer.forward_properties or []).eval()
    program = _export(called, tuple(values[:_TRACED] for values in inputs))
    _check(called, program, inputs)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _inputs(spec: RunSpec, data: DataContainer) -> tuple[Tensor, ...]:
    """Return the forward properties of the first samples, shape `(batch, ...)`, transformed as in training."""
    return tuple(selected(data.first_batch(_CHECKED), spec.trainer.forward_properties or []).values())


def _export(called: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            # `*properties` is one argument.
            return torch.export.export(called, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),))
    except Exception as error:  # torch.export raises errors of many types
        raise TrainingError(
            f"torch.export cannot follow this model: {str(error).splitlines()[0]}",
            hint="`noether checkpoint export` without --format writes the weights alone",
        ) from error


def _check(called: nn.Module, program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...]) -> None:
    """Compare model and program on a batch of another size than that of the export."""
    with torch.no_grad():
        wanted, got = called(*inputs), program.module()(*inputs)
    try:
        torch.testing.assert_close(got, wanted)
    except AssertionError as error:
        raise TrainingError(
            f"the exported program and the model differ: {str(error).splitlines()[0]}",
            hint="the model may depend on more than its inputs; nothing was written",
        ) from error
