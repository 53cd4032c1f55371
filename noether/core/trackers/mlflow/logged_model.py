"""The trained model as a logged model of MLflow, which `mlflow.pyfunc` loads."""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noether.core.trackers.mlflow.client import quiet_mlflow
from noether.metrics.tracker import PackedModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

_MODEL_TAG = "noether.logged_model"
"""Tag of a run: update and id of the model that it has logged last."""
_LARGEST_EXAMPLE = 100_000
"""Numbers of an example, which MLflow keeps as text."""
_FORBIDDEN = re.compile(r"""[/:.%"']""")  # in the name of a logged model, says MLflow
_LOGGER = logging.getLogger(__name__)


def log_model(
    client: MlflowClient, experiment_id: str, run_id: str, model: PackedModel, register_as: str | None
) -> None:
    """Upload a model, link it with its run, and register it; what an earlier try has done is not done again.

    MLflow's own function needs its global state, and ends the run.

    Args:
        client: MLflow's client.
        experiment_id: Experiment of the run.
        run_id: Id of the MLflow run.
        model: The model.
        register_as: Name of the registered model that gets it as its next version; None to leave it out.
    """
    tag = client.get_run(run_id).data.tags.get(_MODEL_TAG, "")
    update, _, model_id = tag.partition(" ")
    if not model_id or update != str(model.update):
        model_id = _upload(client, experiment_id, run_id, model)
        client.set_tag(run_id, _MODEL_TAG, f"{model.update} {model_id}")
    if register_as is not None:
        _register(client, run_id, model_id, register_as)


def _upload(client: MlflowClient, experiment_id: str, run_id: str, model: PackedModel) -> str:
    from mlflow.entities import LoggedModelOutput

    made = client.create_logged_model(
        experiment_id,
        name=_FORBIDDEN.sub("_", model.name),
        source_run_id=run_id,
        tags=dict(model.facts),
        model_type="noether",
    )
    model_id = str(made.model_id)
    try:
        with tempfile.TemporaryDirectory(prefix="noether-") as place, quiet_mlflow():
            folder = Path(place) / "model"
            _save(folder, model, run_id, model_id)
            client.log_model_artifacts(model_id, str(folder))
        client.finalize_logged_model(model_id, "READY")
    except BaseException:
        client.delete_logged_model(model_id)  # MLflow would show it as one that failed
        raise
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=model.update)])
    return model_id


def _save(folder: Path, model: PackedModel, run_id: str, model_id: str) -> None:
    """Write the model in MLflow's format: a Python file, safetensors and a spec, nothing pickled."""
    with warnings.catch_warnings():  # MLflow warns about its own type hints, and about unannotated arguments
        warnings.simplefilter("ignore")
        _write(folder, model, run_id, model_id)


def _write(folder: Path, model: PackedModel, run_id: str, model_id: str) -> None:
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    save_model(
        str(folder),
        python_model=str(model.code),
        artifacts={"run": str(model.folder)},
        model_config={"checkpoint": model.checkpoint},
        signature=_signature(model),
        input_example=dict(model.example) if _is_short(model) else None,
        pip_requirements=list(model.requirements),
        mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id, metadata=dict(model.facts)),
    )


def _is_short(model: PackedModel) -> bool:
    return sum(array.size for array in model.example.values()) <= _LARGEST_EXAMPLE


def _signature(model: PackedModel) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    def schema(arrays: Any) -> Schema:
        return Schema([TensorSpec(array.dtype, (-1, *array.shape[1:]), name) for name, array in arrays.items()])

    return ModelSignature(schema(model.example), schema(model.fields))


def _register(client: MlflowClient, run_id: str, model_id: str, name: str) -> None:
    """Add a version to a registered model, which is created if it is missing."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'")
    if all(model_id not in str(version.source) for version in versions):
        with quiet_mlflow():
            made = client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)
        _LOGGER.info("registered as %s, version %s", name, made.version)
