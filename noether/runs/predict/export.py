"""A trained model as files that load elsewhere: plain weights, and programs of torch.export and ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noether.checkpoint.durable import replace_file
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import Checkpoint, CheckpointNames
from noether.checkpoint.state import encode_state
from noether.checkpoint.tensor_file import IN_PAIRS
from noether.config.base import component_of
from noether.data.build import build_dataset
from noether.data.collators import selected
from noether.data.dataset import length_of
from noether.data.fetch import fetch_of
from noether.data.randomness import EVALUATION_EPOCH
from noether.data.views import apply
from noether.errors import DataError, NoetherError, TrainingError, UsageError
from noether.runs.load import SavedRun, load_run
from noether.runs.predict.predictor import Predictor

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
        run = load_run(paths.run_path, trust=trusted, project=project)
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


_TRACED, _CHECKED = 2, 3  # samples; torch.export takes a batch of one for a fixed size


class _Physical(nn.Module):
    """A model with its transforms: raw properties in, fields in the units of the data out.

    Args:
        predictor: The model and its transforms.

    Raises:
        DataError: if a transform cannot be applied to batches, or is random.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model = predictor.model
        self.names = predictor.needed
        self.predictor = predictor
        inputs = predictor.inputs
        self.transforms = inputs.data.transforms(inputs.key)
        self.placeholders = {name: value for name, value in inputs.placeholders.items() if name not in self.names}
        for transform in self.transforms:
            if not (transform.batched and transform.deterministic):
                raise DataError(
                    f"the transform {type(transform).__name__} cannot be a part of a program: found batched = "
                    f"{transform.batched} and deterministic = {transform.deterministic}, expected True for both",
                    hint="declare them in its class if they hold, or leave the transforms out with --no-transforms",
                )

    def forward(self, *properties: Tensor) -> dict[str, Tensor]:
        """Map properties, in the order of `names`, to fields."""
        size = properties[0].shape[0]
        unknown = {name: value.expand(size, *value.shape) for name, value in self.placeholders.items()}
        sample = apply(self.predictor.inputs.steps(), dict(zip(self.names, properties, strict=True)) | unknown)
        outputs = self.model(**{name: sample[name] for name in self.predictor.names})
        return self.predictor.in_units(self.predictor.by_field(outputs))


class _Transformed(nn.Module):
    """A model without transforms: its inputs are transformed as in training, and its outputs are not mapped back.

    Args:
        predictor: The model.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.model = predictor.model
        self.names = list(predictor.names)
        self.predictor = predictor

    def forward(self, *properties: Tensor) -> dict[str, Tensor]:
        """Map forward properties, in the order of the spec, to fields."""
        outputs = self.model(**dict(zip(self.names, properties, strict=True)))
        return self.predictor.by_field(outputs)


def program_of(run: SavedRun, form: str, *, checkpoint: str, averages: str | None, transforms: bool) -> bytes:
    """Return a model in evaluation mode as a `.pt2` or `.onnx` file; its inputs are tensors in the order of `needed`.

    Shapes are those of the first samples of the data; the batch size stays open.

    Args:
        run: The run.
        form: `torch-export` or `onnx`.
        checkpoint: Name of the checkpoint.
        averages: Take its averaged weights instead: the factor, or id and factor.
        transforms: Put the transforms of the run inside.

    Raises:
        UsageError: if packages are missing, or a transform cannot be part of a program.
        CheckpointError: if there is no such checkpoint, or it holds only a part of the weights.
        TrainingError: if the model cannot be exported, or the program computes other values than `predict`.
    """
    if form == "onnx":
        _require_onnx()
    predictor = run.predictor(checkpoint, averages)
    _require_stacked(predictor)
    raw = _raw_samples(predictor, run.spec.seed)
    module: nn.Module
    if transforms:
        module, inputs, wanted = _Physical(predictor), raw, predictor(raw)
    else:
        module = _Transformed(predictor)
        batch = predictor.inputs.fetch(raw, _CHECKED)(torch.arange(_CHECKED), EVALUATION_EPOCH)
        inputs = selected(batch, predictor.names)
        with torch.no_grad():
            wanted = module(*inputs.values())
    program = _exported(module.eval(), tuple(values[:_TRACED] for values in inputs.values()))
    if form == "onnx":
        return _onnx(program, inputs, wanted)
    with torch.no_grad():
        _compare(program.module()(*inputs.values()), wanted)
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _require_stacked(predictor: Predictor) -> None:
    """Refuse batches that a collator makes: a program takes stacked samples, of one size."""
    collate = predictor.inputs.config.collate
    if collate is not None and (kind := component_of(collate).kind) != "stack":
        raise UsageError(
            f"a program takes samples of one size: found collate = {kind!r} of the data set {predictor.inputs.key!r}",
            hint="`noether checkpoint export` without --format writes the weights alone",
        )


def _raw_samples(predictor: Predictor, seed: int) -> dict[str, Tensor]:
    """Return the properties that a prediction needs of the first samples of the data."""
    dataset = build_dataset(predictor.inputs.config, seed=seed)
    if length_of(dataset) < _CHECKED:
        raise DataError(f"too few samples to check the program: found {length_of(dataset)}, expected {_CHECKED}")
    batch = fetch_of(dataset, seed)(torch.arange(_CHECKED), EVALUATION_EPOCH)
    return selected(batch, predictor.needed)


def _exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    try:
        with torch.no_grad():
            # `*properties` is one argument.
            return torch.export.export(module, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),))
    except NoetherError:
        raise
    except Exception as error:  # torch.export raises errors of many types
        raise TrainingError(
            f"torch.export cannot follow this model: {str(error).splitlines()[0]}",
            hint="`noether checkpoint export` without --format writes the weights alone",
        ) from error


def _compare(found: Any, wanted: Mapping[str, Tensor]) -> None:
    """Compare program and model on a batch of another size than that of the export."""
    try:
        torch.testing.assert_close(found, dict(wanted))
    except AssertionError as error:
        raise TrainingError(
            f"the exported program and the model differ: {str(error).splitlines()[0]}",
            hint="the model may depend on more than its inputs; nothing was written",
        ) from error


# ONNX


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"missing package for --format onnx: {error.name} is not installed", hint="pip install onnx onnxscript"
        ) from error


def _onnx(program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bytes:
    """Return a program as an ONNX file with named inputs and outputs, after comparing what it computes."""
    from onnx.reference import ReferenceEvaluator

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter uses functions of torch that are deprecated
            converted = torch.onnx.export(
                program, input_names=list(inputs), output_names=list(wanted), dynamo=True, verbose=False
            )
    except Exception as error:  # the exporter raises errors of many types
        raise TrainingError(
            f"ONNX cannot hold this model: {str(error).splitlines()[0]}", hint="--format torch-export may"
        ) from error
    assert converted is not None, "with dynamo=True it returns the program"
    model = _with_named_batch(converted.model_proto)
    data: bytes = model.SerializeToString()
    session = ReferenceEvaluator(model)
    values = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    _compare({field: torch.as_tensor(value) for field, value in zip(wanted, values, strict=True)}, wanted)
    return data


def _with_named_batch(model: Any) -> Any:
    """Name the size of a batch `batch`: the exporter invents a name, such as s97, and users read it."""
    graph = model.graph
    invented = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in invented - {""}:
                size.dim_param = "batch"
    return model
