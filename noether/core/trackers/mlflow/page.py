"""The page of an MLflow run: description, parameters, data sets, parent, and the trained model as a logged model."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noether.core.trackers.mlflow.client import quiet_mlflow
from noether.core.trackers.mlflow.config import PARENT_TAG, SWEEP_TAG
from noether.core.trackers.mlflow.requests import MAX_PARAMS, in_requests, send_params, to_params
from noether.metrics.tracker import DatasetFacts, PackedModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run
    from mlflow.models import ModelSignature

NOTE_TAG = "mlflow.note.content"
_NOTE_DIGEST_TAG = "noether.note.sha256"
"""Digest of the description that Noether wrote: one that a user has changed is left as it is."""
_MAX_NOTE_LENGTH = 5000
"""Servers before 3.11 refuse longer tags."""


def note_tags(text: str) -> dict[str, str]:
    """Return the tags of a description in Markdown, which is cut at the end of a line if it is too long."""
    text = text.strip()
    if len(text) > _MAX_NOTE_LENGTH:
        kept = text[: _MAX_NOTE_LENGTH - 2]
        text = (kept.rpartition("\n")[0] or kept) + "\n…"
    return {NOTE_TAG: text, _NOTE_DIGEST_TAG: _digest(text)} if text else {}


def update_note(client: MlflowClient, run_id: str, text: str) -> None:
    """Replace the description of a run, unless a user has written or changed it."""
    from mlflow.entities import RunTag

    tags = client.get_run(run_id).data.tags
    present = tags.get(NOTE_TAG, "")
    if present and _digest(present.strip()) != tags.get(_NOTE_DIGEST_TAG):
        return
    new = note_tags(text)
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in new.items()], synchronous=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class Parameters:
    """The parameters of an MLflow run, in the order in which MLflow's page of a run shows them.

    MLflow refuses a second value for a parameter: those of a later attempt stand below `attempt/<n>/`.

    Args:
        client: MLflow's client.
        run_id: Id of the MLflow run.
        attempt: Number of the attempt.
    """

    def __init__(self, client: MlflowClient, run_id: str, attempt: int) -> None:
        self._client, self._run_id, self._attempt = client, run_id, attempt
        self._logged: dict[str, str] = dict(client.get_run(run_id).data.params)

    def log(self, values: Mapping[str, str]) -> None:
        """Log the values that the run does not have."""
        params = to_params(values)
        given = zip(values, params, strict=True)
        changed = [key for key, param in given if self._logged.get(param.key, param.value) != param.value]
        params += to_params({f"attempt/{self._attempt}/{key}": values[key] for key in changed})
        for request in in_requests([param for param in params if param.key not in self._logged], MAX_PARAMS):
            send_params(self._client, self._run_id, request)
            self._logged |= {param.key: param.value for param in request}


_MAX_SCHEMA = 60_000
"""MLflow refuses a schema of more than 65,535 characters, and a source."""


def log_datasets(client: MlflowClient, run_id: str, datasets: Sequence[DatasetFacts]) -> None:
    """Log the data sets that the run does not have, with their part: training or evaluation."""
    logged = {(one.dataset.name, one.dataset.digest) for one in client.get_run(run_id).inputs.dataset_inputs}
    inputs = [_input(one) for one in datasets]
    if new := [one for one in inputs if (one.dataset.name, one.dataset.digest) not in logged]:
        client.log_inputs(run_id, new)


def _input(facts: DatasetFacts) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [_column(name, shape, dtype) for name, (shape, dtype) in facts.properties.items()]
    schema, kept = json.dumps({"mlflow_tensorspec": {"features": json.dumps(columns), "targets": None}}), len(columns)
    while len(schema) > _MAX_SCHEMA:
        kept //= 2
        schema = json.dumps({"mlflow_tensorspec": {"features": json.dumps(columns[:kept]), "targets": None}})
    entity = Dataset(
        name=f"{facts.kind} {facts.key}"[:500],
        digest=facts.digest[:36],
        source_type="noether",
        source=facts.source[:_MAX_SCHEMA],
        schema=schema,
        profile=json.dumps({"num_rows": facts.samples}),
    )
    context = "train" if facts.key == "train" else "eval"
    return DatasetInput(entity, [InputTag("mlflow.data.context", context)])


def _column(name: str, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    return {"name": name, "type": "tensor", "tensor-spec": {"dtype": _numpy_type(dtype), "shape": [-1, *shape]}}


def _numpy_type(dtype: str) -> str:
    return {"bfloat16": "float32"}.get(dtype, dtype)


_IS_PARENT = "noether.sweep_parent"


def parent_tags(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tag that makes a run a child of its sweep's run, which is created if it is missing."""
    sweep = tags.get(SWEEP_TAG)
    if sweep is None or PARENT_TAG in tags:
        return {}
    if not (found := _parents(client, experiment_id, sweep)):
        made = client.create_run(
            experiment_id,
            run_name=sweep,
            tags={
                SWEEP_TAG: sweep,
                _IS_PARENT: "true",
                **note_tags(f"The sweep `{sweep}`: its trials are the child runs."),
            },
        )
        client.set_terminated(made.info.run_id)  # it does nothing itself
        found = _parents(client, experiment_id, sweep) or [made]
    return {PARENT_TAG: found[0].info.run_id}


def settle_parent(client: MlflowClient, run_id: str, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Move a run to the first run of its sweep, and delete others that trials created at the same moment."""
    sweep = tags.get(SWEEP_TAG)
    if sweep is None or PARENT_TAG in tags or not (found := _parents(client, experiment_id, sweep)):
        return
    first, *others = (one.info.run_id for one in found)
    client.set_tag(run_id, PARENT_TAG, first)
    client.set_terminated(first)
    for other in others:
        client.delete_run(other)


def _parents(client: MlflowClient, experiment_id: str, sweep: str) -> list[Run]:
    """Return the runs of a sweep itself in the same order for every trial."""
    quote = '"' if "'" in sweep else "'"
    query = f"tags.`{SWEEP_TAG}` = {quote}{sweep}{quote} and tags.`{_IS_PARENT}` = 'true'"
    found: list[Run] = list(client.search_runs([experiment_id], query, max_results=100))
    return sorted(found, key=lambda one: (one.info.start_time, one.info.run_id))


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
        input_example=_example(model),
        pip_requirements=list(model.requirements),
        mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id, metadata=dict(model.facts)),
    )


def _example(model: PackedModel) -> Any:
    if model.rows is not None:
        return model.rows[0]
    is_short = sum(array.size for array in model.example.values()) <= _LARGEST_EXAMPLE
    return dict(model.example) if is_short else None


def _signature(model: PackedModel) -> ModelSignature:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types.schema import AnyType, ColSpec, Schema, TensorSpec

    if model.rows is not None:  # a column of type double would refuse whole numbers
        is_text = {str(column): values.dtype == object for column, values in model.rows[0].items()}
        columns = [ColSpec("string" if text else AnyType(), column) for column, text in is_text.items()]
        return ModelSignature(Schema(columns), infer_signature(model.rows[1]).inputs)

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
