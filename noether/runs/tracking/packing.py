"""The trained model of a run as files that load elsewhere: weights, transforms, and the spec that they need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w
import torch
from numpy.typing import NDArray
from torch import Tensor

from noether.checkpoint.manifest import NAME as MANIFEST
from noether.checkpoint.manifest import WEIGHTS, whole_file
from noether.checkpoint.paths import PathProvider
from noether.checkpoint.saved import CheckpointNames
from noether.checkpoint.state import DATA
from noether.checkpoint.untrusted import open_inside
from noether.errors import UsageError
from noether.kernel.entries import BUILT_IN, Component
from noether.metrics.tracker import PackedModel
from noether.runs.folder.run_folder import RUN
from noether.runs.load import SavedRun, load_run
from noether.runs.saved_spec import read_saved_spec
from noether.spec.fields import components_in

_NEEDED = (WEIGHTS, DATA)
"""Files of a checkpoint that a prediction reads."""
_LEFT_OUT = ("trackers", "plugins", "expect", "checkpoints", "initializer", "resolved")
"""Tables of a spec that a prediction does not need, and that may name things that another machine lacks."""

_OF_TRAINING = ("callbacks", "eval_callbacks", "initializer")


def pack_model(paths: PathProvider, folder: Path, sample: Mapping[str, Any] | None = None) -> PackedModel:
    """Write the model of the newest checkpoint into a folder, load it from there, and predict one sample.

    Args:
        paths: Paths of the run.
        folder: An empty folder.
        sample: A sample before its transforms, as the example; None for one that is made up.

    Raises:
        UsageError: if the model is code of the project, which another machine does not have.
        NoetherError: if it cannot predict, such as a trainer with a forward of its own.
    """
    found = CheckpointNames(paths.checkpoint_path).find("latest")
    source, packed = found.saved.folder, PathProvider(folder.parent, folder.name)
    target = packed.checkpoint_path / source.name
    for name in (MANIFEST, *(name for name in found.saved.manifest.files if whole_file(name) in _NEEDED)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(paths.run_path, source / name, target / name)
    _copy(paths.run_path, paths.run_path / RUN, packed.run_path / RUN)
    packed.resolved_spec_path.write_text(tomli_w.dumps(_tables(paths)), "utf-8")
    run = load_run(folder)
    needed = _components(run)
    if own := [one for one in needed if not one.distribution]:
        raise UsageError(
            f"the model needs code of this project, which other machines do not have: {own[0].kind}",
            hint="make it an installable plugin: noether plugins new",
        )
    predictor = run.predictor(found.position)
    example = _example(predictor.needed, sample or {}, predictor.inputs.placeholders)
    fields = {field: _array(values) for field, values in predictor(example).items()}
    return PackedModel(
        folder=folder,
        code=Path(__file__).with_name("served_model.py"),
        name=run.spec.name,
        checkpoint=found.position,
        update=found.saved.manifest.update,
        example=example,
        fields=fields,
        requirements=_requirements(needed),
        facts={"noether.run_id": paths.run_id, "noether.checkpoint": found.position},
    )


def _copy(run: Path, file: Path, target: Path) -> None:
    """Copy a file of a run folder, which may be a stranger's: a link is not followed."""
    with os.fdopen(open_inside(run, file), "rb") as held, target.open("xb") as copy:
        shutil.copyfileobj(held, copy)


def _tables(paths: PathProvider) -> dict[str, Any]:
    """Return the spec of a run without callbacks and others that a prediction does not need."""
    tables = {key: table for key, table in read_saved_spec(paths).tables.items() if key not in _LEFT_OUT}
    trainer = {key: value for key, value in tables["trainer"].items() if key not in _OF_TRAINING}
    return tables | {"trainer": trainer, "trackers": []}


def _components(run: SavedRun) -> list[Component]:
    return [component for _, component in components_in(run.spec)]


def _example(
    needed: Sequence[str], sample: Mapping[str, Any], made_up: Mapping[str, Tensor]
) -> dict[str, NDArray[Any]]:
    """Return a batch of one sample with the properties that a prediction needs."""
    return {name: _array(torch.as_tensor(sample.get(name, made_up[name])).unsqueeze(0)) for name in needed}


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
    return array


def _requirements(needed: Sequence[Component]) -> list[str]:
    """Return the packages that the model needs, in the versions of this run."""
    found = {one.distribution: one.version for one in needed if one.distribution != BUILT_IN}
    found |= {name: version(name) for name in ("noether-train", "torch", "mlflow")}
    return [f"{name}=={number.partition('+')[0]}" for name, number in sorted(found.items())]
