"""Finding or creating the experiment of a run, also when several processes start on a fresh store at once."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from noether.core.trackers.errors import TrackerRefusedError
from noether.core.trackers.mlflow.environment import quiet_mlflow
from noether.core.trackers.mlflow.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOCK_TIMEOUT_S = 120
_KIND_TAG = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow's pages ask what the experiment is for."""


def open_experiment(store: Store, name: str, artifact_location: str | None) -> tuple[MlflowClient, str]:
    """Return a client for the store and the id of the experiment, creating both where they are missing.

    Args:
        store: The store.
        name: Name of the experiment.
        artifact_location: Where a new experiment keeps its files; None for the default.

    Raises:
        TrackerRefusedError: If the experiment was deleted.
    """
    # Two processes that migrate one fresh database at the same time destroy each other's work.
    with _lock(store), quiet_mlflow():
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=store.uri)
        location = artifact_location or _default_location(store, name)
        return client, _find(client, name) or _create(client, name, location)


def _find(client: MlflowClient, name: str) -> str | None:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return None
    if experiment.lifecycle_stage == "deleted":
        raise TrackerRefusedError(
            f"the MLflow experiment {name!r} (id {experiment.experiment_id}) was deleted",
            hint=f"restore it with `mlflow experiments restore -x {experiment.experiment_id}`, "
            "or give the tracker another `experiment`",
        )
    return str(experiment.experiment_id)


def _create(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=location, tags=_KIND_TAG))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # on a server: another run was faster
            existing = _find(client, name)
            if existing is not None:
                return existing
        raise


def _default_location(store: Store, name: str) -> str | None:
    """Return a folder beside the database; MLflow's default is below the working folder of the moment."""
    if store.is_server:
        return None
    folder = store.database.parent if store.database else Path.cwd()
    return str(folder / "mlartifacts" / re.sub(r"[^\w.-]+", "-", name).strip("."))


def _lock(store: Store) -> AbstractContextManager[object]:
    if store.database is None:
        return nullcontext()
    from filelock import FileLock

    store.database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{store.database}.lock", timeout=_LOCK_TIMEOUT_S)
