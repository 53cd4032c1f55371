"""A trained model packed for trackers: a folder that predicts without the project, on properties or on tables."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
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
from noether.config.components import DatasetBaseConfig
from noether.data.sources.columns import TABLES
from noether.data.sources.file import FileConfig
from noether.errors import UsageError
from noether.kernel.entries import BUILT_IN, Component
from noether.metrics.tracker import PackedModel
from noether.runs.folder.run_folder import RUN
from noether.runs.load import SavedRun, load_run
from noether.runs.predict.files import columns_of, listed, predict_file
from noether.runs.predict.inputs import RawProperties
from noether.runs.predict.predictor import Predictor
from noether.runs.saved_spec import read_saved_spec
from noether.spec.fields import components_in

if TYPE_CHECKING:
    from pandas import DataFrame

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
        rows=_rows(predictor, example),
        facts={"noether.run_id": paths.run_id, "noether.checkpoint": found.position},
    )


def _rows(predictor: Predictor, example: Mapping[str, Any]) -> tuple[DataFrame, DataFrame] | None:
    """Return an example and its prediction as tables, for a run on a table."""
    from pandas import DataFrame

    config = predictor.inputs.config
    if not is_table(config):
        return None
    table = DataFrame([_row(config, predictor.inputs.properties, example)])
    return table, predict_table(predictor, table)


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


def is_table(config: DatasetBaseConfig) -> TypeGuard[FileConfig]:
    """Return True if samples are rows of a table, whose columns a user knows."""
    return isinstance(config, FileConfig) and Path(config.path).suffix.lower() in TABLES


def _row(config: FileConfig, properties: RawProperties, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties of a batch of one sample as a row of their table, with the texts of categories."""
    columns, row = columns_of(Path(config.path), config, (), properties), dict[str, Any]()
    for name, values in sample.items():
        left = list(map(float, map(str, np.atleast_1d(values).ravel())))  # 0.1, not the float32 next to it
        for column in listed(columns[name]):
            texts = config.categories.get(column)
            if texts is None:
                row[column] = left.pop(0)
            elif isinstance(columns[name], str):
                row[column] = _cell(texts, int(left.pop(0)))
            else:
                shares, left = left[: len(texts)], left[len(texts) :]
                row[column] = _cell(texts, shares.index(max(shares)))
    return row


def _cell(texts: Sequence[str], place: int) -> str | int:
    """Return a category; one of whole numbers is a number, as readers of tables return it."""
    return int(texts[place]) if all(map(str.isdigit, texts)) else texts[place]


def predict_table(predictor: Predictor, table: DataFrame) -> DataFrame:
    """Return what `noether predict` writes for a table, in the same order of rows.

    Args:
        predictor: The model of a run on a table.
        table: The inputs, in the columns and units of the training data; further columns are not read.

    Raises:
        DataError: if a column is missing, a number has no value, or a text is none of the categories.
    """
    import pandas as pd

    config = predictor.inputs.config
    assert is_table(config), "others take properties"
    with TemporaryDirectory(prefix="noether-") as folder:
        data, out = Path(folder, "inputs.csv"), Path(folder, "predictions.parquet")
        table.to_csv(data, index=False, sep=config.delimiter or ",", decimal=config.decimal)
        predict_file(predictor, data, out)
        return pd.read_parquet(out)
