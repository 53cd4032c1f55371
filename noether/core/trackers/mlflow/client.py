"""The MLflow client: process settings, credentials, errors, experiments, system metrics."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noether.config.secrets import remember_password_in, remember_secret
from noether.core.trackers.mlflow.config import is_of_the_machine
from noether.core.trackers.mlflow.store import Store, checked_client
from noether.metrics.tracker import RunDescription, TrackerError, TrackerRefusedError, TrackerSettingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOGGER = logging.getLogger(__name__)

OPENING_TAG, RUN_ID_TAG = "noether.opening", "noether.run_id"
"""Tags that name the run that an MLflow run was created for: its token, which no other run has, and its id."""

_FINAL = {
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "PERMISSION_DENIED",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
}
"""Error codes that another try cannot change: wrong credentials, a deleted run, a refused value."""


@contextmanager
def as_tracker_errors(place: str) -> Iterator[None]:
    """Turn MLflow's exceptions into tracker errors; their type tells the feed if another try makes sense.

    Args:
        place: Address of the store, for the message.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = f"MLflow at {place}: {_first_line(error)}"
        if error.error_code in _FINAL:
            raise TrackerRefusedError(reason) from error
        raise TrackerError(reason) from error


def _first_line(error: Exception) -> str:
    """Return the message of the root cause; the client wraps network errors several times."""
    root: BaseException = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    text = str(root) or type(root).__name__
    return text.splitlines()[0][:200]


_FOR_THE_PROCESS = {
    # MLflow sends usage data to its makers by default; a run opens only connections that the user requested.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow prints hints for coding agents into the output of a run.
    "MLFLOW_DISABLE_AGENT_HINT": "true",
}

_CREDENTIALS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN")

_NOISY_LOGGERS = (
    "alembic",
    "mlflow.models.signature",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.abstract_store",
    "mlflow.store.db.utils",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.system_metrics.system_metrics_monitor",
)


def set_process_defaults() -> None:
    """Set the variables that mlflow reads on import; values set by the user stay."""
    for name, value in _FOR_THE_PROCESS.items():
        os.environ.setdefault(name, value)


def remember_credentials(uri: str, environment: Mapping[str, str]) -> None:
    """Mask the client's credentials, which network errors may quote."""
    remember_password_in(uri)
    for name in _CREDENTIALS:
        remember_secret(environment.get(name, ""))


class ClientSettings:
    """Environment variables that make MLflow's client give up early and print nothing.

    The tracker feed retries by itself. With MLflow's defaults one request to a dead server blocks for minutes, and
    retries draw jitter from Python's global random generator, which belongs to training. The client reads these
    settings from the environment only. Values set by the user stay.

    Args:
        timeout_s: Seconds to wait for a reply.
    """

    def __init__(self, timeout_s: int) -> None:
        self._wanted = {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        }
        self._set: list[str] = []

    def apply(self) -> None:
        """Set the variables that are not set yet."""
        for name, value in self._wanted.items():
            if name not in os.environ:
                os.environ[name] = value
                self._set.append(name)

    def revert(self) -> None:
        """Restore the environment."""
        while self._set:
            os.environ.pop(self._set.pop(), None)

    def __enter__(self) -> None:
        set_process_defaults()
        self.apply()

    def __exit__(self, *_: object) -> None:
        self.revert()


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep MLflow's own log out of the run's output; a new database alone logs fifty lines."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_INTERVAL_S = 5.0
"""Seconds between samples; MLflow's default of ten would show nothing of a short run."""


def start_system_metrics(client: MlflowClient, tracking_uri: str, run_id: str) -> Any:
    """Start the thread of the system metrics monitor and return it; a resumed run continues its count."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    latest = client.get_run(run_id).data._metric_objs
    with quiet_mlflow():
        monitor = SystemMetricsMonitor(run_id, sampling_interval=_INTERVAL_S, tracking_uri=tracking_uri)
        # Its own search for the last step would find that of `system/profiling`, which is an update.
        monitor._logging_step = 1 + max((one.step for one in latest if is_of_the_machine(one.key)), default=-1)
        monitor.start()
    return monitor


def stop_system_metrics(monitor: Any) -> None:
    """Stop the thread of a system metrics monitor."""
    with quiet_mlflow():
        monitor.finish()


_LOCK_TIMEOUT_S = 120  # migrating a new database takes seconds, on a slow disk a minute
_KIND_TAG = {"mlflow.experimentKind": "custom_model_development"}
"""Without this tag MLflow's pages ask for the purpose of the experiment."""


TRACKING_URI, RUN_ID = "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"
EXPERIMENT_NAME, EXPERIMENT_ID = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"


def open_client(store: Store) -> MlflowClient:
    """Return a client for the store; a new database is set up."""
    # Two processes that migrate a new database at the same time corrupt it.
    with _lock(store), quiet_mlflow():
        return checked_client(store.uri, store.shown_uri)


def open_experiment(
    client: MlflowClient, store: Store, name: str | None, default: str, artifact_location: str | None
) -> str:
    """Return the id of the experiment: that of the spec, of the environment, or the default one; create missing ones.

    Args:
        client: A client for the store.
        store: The store.
        name: Name of the experiment in the spec.
        default: Name of the experiment if neither the spec nor the environment names one.
        artifact_location: Folder or address for the files of a new experiment; None for the default.

    Raises:
        TrackerRefusedError: if the experiment was deleted.
        TrackerSettingError: if the environment contradicts itself, or names an unknown experiment.
    """
    given, wanted_id = os.environ.get(EXPERIMENT_NAME), os.environ.get(EXPERIMENT_ID)
    if name is not None:
        if ignored := [each for each in (EXPERIMENT_NAME, EXPERIMENT_ID) if os.environ.get(each)]:
            _LOGGER.info("%s is ignored: the spec sets experiment = %r", " and ".join(ignored), name)
        given = wanted_id = None
    elif wanted_id and not given:
        return _named_by_id(client, wanted_id)
    name = name or given or default
    with _lock(store), quiet_mlflow():
        found = _find(client, name) or _create(client, name, artifact_location or _default_location(store, name))
    if wanted_id and wanted_id != found:
        raise TrackerSettingError(
            f"{EXPERIMENT_NAME} and {EXPERIMENT_ID} contradict each other: found {name!r}, which is the experiment "
            f"{found}, and {wanted_id!r}",
            hint=f"unset one of the two, or set `experiment` for the tracker: unset {EXPERIMENT_ID}",
        )
    return found


def _named_by_id(client: MlflowClient, experiment_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return _active(client.get_experiment(experiment_id))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackerSettingError(
            f"unknown MLflow experiment: found {EXPERIMENT_ID} = {experiment_id!r}, expected the id of one",
            hint=f"unset {EXPERIMENT_ID}, or name the experiment with {EXPERIMENT_NAME}",
        ) from error


def _find(client: MlflowClient, name: str) -> str | None:
    experiment = client.get_experiment_by_name(name)
    return None if experiment is None else _active(experiment)


def _active(experiment: Any) -> str:
    if experiment.lifecycle_stage == "deleted":
        raise TrackerRefusedError(
            f"the MLflow experiment {experiment.name!r} (id {experiment.experiment_id}) was deleted",
            hint=f"restore it with `mlflow experiments restore -x {experiment.experiment_id}`, "
            "or set another `experiment` for the tracker",
        )
    return str(experiment.experiment_id)


def _create(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=location, tags=_KIND_TAG))
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # on a server: another run created it meanwhile
            existing = _find(client, name)
            if existing is not None:
                return existing
        raise


def _default_location(store: Store, name: str) -> str | None:
    """Return a folder beside the database; MLflow's default is below the current working folder."""
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


def found_run(client: MlflowClient, run_id: str) -> Any:
    """Return an MLflow run; None if the store does not have it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def forget_run(store: Store, run: RunDescription) -> bool:
    """Mark the MLflow run that was created for a run as deleted; return False if the store has none.

    Id and token of the run must be those of the tags, whatever the reference says: a run folder may be a copy.

    Args:
        store: The user's own store.
        run: Id and token of the run, and the reference that its folder keeps.
    """
    if not run.token or (store.database is not None and not store.database.is_file()):
        return False
    client = open_client(store)
    known = [found_run(client, run.reference["run_id"])] if run.reference.get("run_id") else []
    for found in (*known, *_runs_with_token(client, run.token)):
        tags = {} if found is None or found.info.lifecycle_stage == "deleted" else found.data.tags
        if (tags.get(RUN_ID_TAG), tags.get(OPENING_TAG)) == (run.run_id, run.token):
            client.delete_run(found.info.run_id)
            return True
    return False


def _runs_with_token(client: MlflowClient, token: str) -> Iterator[Any]:
    """Yield the runs of all experiments with this token: a process may have died before it kept the id."""
    page = None
    while True:
        experiments = client.search_experiments(page_token=page)
        if ids := [experiment.experiment_id for experiment in experiments]:
            yield from client.search_runs(ids, f"tags.`{OPENING_TAG}` = '{token}'")
        if not (page := experiments.token):
            return
