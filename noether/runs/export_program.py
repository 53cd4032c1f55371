"""`checkpoint export --format torch-export`: model and weights as one program of `torch.export`, checked on a batch."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from noether.checkpoint.names import Checkpoint
from noether.checkpoint.paths import PathProvider
from noether.core.models.base import ModelBase
from noether.core.models.build import build_model
from noether.core.models.weights import match_weights
from noether.data.build import build_data
from noether.data.fetch import fetch_of
from noether.data.randomness import EVALUATION_EPOCH
from noether.errors import TrainingError
from noether.kernel.registry import use_registry
from noether.runs.process_state import process_state
from noether.runs.run_spec import load_run_spec
from noether.spec.model import RunSpec

_TRACED, _CHECKED = 2, 3  # samples; a batch of one would be taken for a size that never changes


class _ByPosition(nn.Module):
    """A model as it is called in training, its forward properties in the order of the spec.

    Args:
        model: The model.
        names: Its forward properties.
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

    Shapes are those of the first samples of the data; the size of the batch stays open. The inputs are what the
    transforms of the spec make of a sample.

    Args:
        paths: Those of the run.
        found: The checkpoint, with what its transforms learnt.
        tensors: Its weights.
        trusted: Packages that dotted kinds may import beside the usual ones.

    Raises:
        CheckpointError: The weights are not all that the model has.
        TrainingError: The model cannot be exported, or the program computes something else.
    """
    loaded = load_run_spec(paths, trusted=trusted)
    with use_registry(loaded.registry), process_state(loaded.spec):
        model = build_model(loaded.spec.model, torch.device("cpu"))
        match = match_weights(model, tensors)
        match.require_complete(str(found.saved.folder / found.weights), hint="export a checkpoint of whole weights")
        match.load_into(model)
        inputs = _inputs(loaded.spec, found)
    called = _ByPosition(model, loaded.spec.trainer.forward_properties or []).eval()
    program = _export(called, tuple(values[:_TRACED] for values in inputs))
    _check(called, program, inputs)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _inputs(spec: RunSpec, found: Checkpoint) -> tuple[Tensor, ...]:
    """Return the forward properties of the first samples, shape `(batch, ...)`, as training sees them."""
    data = build_data(spec.datasets, spec.transforms, seed=spec.seed)
    data.load_state_dict(found.saved.data())
    dataset = data.get_dataset("train" if "train" in data.keys() else None)  # noqa: SIM118  # it is no mapping
    batch = fetch_of(dataset, spec.seed)(torch.arange(_CHECKED), EVALUATION_EPOCH)
    return tuple(batch[name] for name in spec.trainer.forward_properties or [])


def _export(called: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            # One entry for `*properties`, which holds one for each of them.
            return torch.export.export(called, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),))
    except Exception as error:  # torch.export raises what it likes for what it cannot follow
        raise TrainingError(
            f"torch.export cannot follow this model: {str(error).splitlines()[0]}",
            hint="`noether checkpoint export` without --format writes the weights alone",
        ) from error


def _check(called: nn.Module, program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...]) -> None:
    """Compare model and program on a batch of another size than the one that it was made with."""
    with torch.no_grad():
        wanted, got = called(*inputs), program.module()(*inputs)
    try:
        torch.testing.assert_close(got, wanted)
    except AssertionError as error:
        raise TrainingError(
            f"the exported program computes something else than the model: {str(error).splitlines()[0]}",
            hint="the model may depend on something beside its inputs; nothing was written",
        ) from error
