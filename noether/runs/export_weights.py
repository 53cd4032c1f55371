"""`checkpoint export`: the weights of a checkpoint as a file that needs no Noether to read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from noether.checkpoint.durable import replace_file
from noether.checkpoint.names import Checkpoint, CheckpointNames
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.state import CALLBACKS, callback_file
from noether.errors import CheckpointError, UsageError

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
        paths: Those of the run.
        checkpoint: Its name.
        averages: Take averaged weights of that step instead: the id of the callback and the factor, `ema/0.999`.
        form: A key of `FORMATS`.
        out: The file; unset, one in the working folder that is named after run and checkpoint.
        trusted: Packages that dotted kinds may import beside the usual ones, for `torch-export`.

    Returns:
        The file, and the checkpoint that is in it.

    Raises:
        UsageError: The file exists, or there is no such format.
        CheckpointError: There is no such checkpoint, it is damaged, or it holds a part of the weights only.
    """
    if form not in FORMATS:
        raise UsageError(f"there is no format {form!r}", hint=f"formats are {', '.join(FORMATS)}")

    steps = CheckpointNames(paths.checkpoint_path)
    if averages is not None:
        found = with_averages(steps.find(checkpoint), averages)
        tensors = found.tensors()
    else:
        found, tensors = steps.load(checkpoint, lambda found: (found, found.tensors()))
    out = out or Path(_file_name(paths.run_id, found, FORMATS[form]))
    if out.exists():
        raise UsageError(f"{out} exists already", hint="choose another --out, or remove it first")
    if form == "safetensors":
        data = plain_safetensors(tensors)
    else:
        from noether.runs.export_program import exported_program

        data = exported_program(paths, found, tensors, trusted=trusted)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, data)
    return out, found


def with_averages(found: Checkpoint, averages: str) -> Checkpoint:
    """Return the averaged weights of a step instead of its live ones.

    Args:
        found: The step.
        averages: The id of the callback and the factor, `ema/0.999`.

    Raises:
        CheckpointError: The step holds no such averages; the message lists those that it holds.
    """
    owner, _, factor = averages.rpartition("/")
    file = callback_file(owner, factor) if owner else ""
    if file not in found.saved.manifest.files:
        held = [name.removeprefix(f"{CALLBACKS}/") for name in found.saved.manifest.files if name.count("/") > 1]
        known = ", ".join(sorted(name.removesuffix(".safetensors") for name in held))
        raise CheckpointError(
            f"{found.saved.folder} holds no averages {averages!r}",
            hint=f"it holds {known}" if known else "it holds none at all; `noether checkpoint list` shows other steps",
        )
    return Checkpoint(found.saved, file)


def plain_safetensors(tensors: dict[str, Tensor]) -> bytes:
    """Return tensors as a safetensors file in which every name stands, tied weights once for each of their names."""
    from safetensors.torch import save

    separate: dict[str, Any] = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(separate, metadata={"format": "pt"})


def _file_name(run_id: str, found: Checkpoint, suffix: str) -> str:
    file = Path(found.weights)
    variant = f".{file.parent.name}={file.stem}" if file.parent.name else ""
    return f"{run_id}.{found.saved.manifest.iteration}{variant}{suffix}"
