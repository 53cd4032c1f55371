"""The MLflow tracker: one MLflow run for each run, with parameters, curves, spec and final status."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from noether.config.components import TrackerBaseConfig
from noether.core.trackers.mlflow.client import (
    ClientSettings,
    as_tracker_errors,
    open_experiment,
    remember_credentials,
    set_process_defaults,
    start_system_metrics,
    stop_system_metrics,
)
from noether.core.trackers.mlflow.requests import (
    MAX_METRICS,
    MAX_PARAMS,
    MetricSender,
    in_requests,
    not_in_history,
    to_metrics,
    to_params,
)
from noether.core.trackers.mlflow.store import Store, resolve_store, run_link, ui_command
from noether.metrics.delivery import process_facts
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.tracker import BaseTracker, RunDescription, RunStatus, TrackerError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TAG_LENGTH = 8000


def run_tags(run: RunDescription, run_name: str) -> dict[str, str]:
    """Return the tags of a new run; an unknown fact has no tag."""
    facts = run.facts or process_facts(run.spec_path)
    tags = {
        "mlflow.runName": run_name,
        "mlflow.user": facts.get("user"),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": str(run.spec_path) if run.spec_path else None,
        "mlflow.source.git.commit": facts.get("git_commit"),
        "mlflow.note.content": run.summary or None,
        **process_tags(run),
        **run.tags,
    }
    return {name: value[:MAX_TAG_LENGTH] for name, value in tags.items() if value is not None}


def process_tags(run: RunDescription) -> dict[str, str]:
    """Return the tags that each attempt of a run sets again."""
    facts = run.facts or process_facts(run.spec_path)
    known = {f"noether.{name}": facts[name] for name in ("version", "host", "pid") if name in facts}
    return {
        "noether.run_id": run.run_id,
        "noether.run_dir": str(run.run_dir.absolute()),
        "noether.attempt": str(run.attempt),
        **known,
    }


class MlflowTrackerConfig(TrackerBaseConfig):
    """Config of the `mlflow` tracker: the store, the experiment and the name of the run."""

    tracking_uri: str | None = Field(
        None,
        examples=["http://localhost:5000"],
        description="Database or server that holds the runs: sqlite:///file.db, postgresql://…, http://… "
        "(default: MLFLOW_TRACKING_URI, else mlflow.db in the working folder, as for `mlflow ui`).",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        examples=["wings"],
        description="Experiment of the run. Default: the spec's name.",
    )
    run_name: str | None = Field(
        None,
        min_length=1,
        examples=["wider-model"],
        description="Name of the run in MLflow's tables. Default: the run id.",
    )
    artifact_location: str | None = Field(
        None,
        min_length=1,
        examples=["/data/mlartifacts"],
        description="Folder or address for the files of a new experiment, fixed when it is created (default: "
        "mlartifacts/<experiment> beside the database; a server has its own default).",
    )
    log_system_metrics: bool = Field(
        False, description="True to also record the use of processor, memory, disk, network and GPU, as system/…."
    )
    request_timeout_s: int = Field(
        10,
        ge=1,
        description="Seconds to wait for a server's reply, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.",
    )


_OPENING_TAG = "noether.opening"
_ERROR_TAG = "noether.error"
_INFINITIES_TAG = "noether.infinite_values_left_out"
_REFUSED_TAG = "noether.refused_values_left_out"
_DATABASE_PATIENCE_S = 30.0
"""Seconds; creating a new database takes several, and needs no warning."""


class MlflowTracker(BaseTracker):
    """Log a run to an MLflow database or server.

    It uses its own client and never MLflow's global state, so that it does not interfere with the user's own use of
    MLflow in the same process.

    Args:
        tracker_config: Config from the spec; None for the defaults.

    Raises:
        PluginError: if MLflow does not support the tracking address.
    """

    tracker_config: MlflowTrackerConfig

    def __init__(self, tracker_config: MlflowTrackerConfig | None = None) -> None:
        config = tracker_config or MlflowTrackerConfig(kind="mlflow")
        super().__init__(config)
        self.store = resolve_store(config.tracking_uri, os.environ, Path.cwd())
        remember_credentials(self.store.uri, os.environ)
        self.experiment_id: str | None = None
        self.mlflow_run_id: str | None = None
        self._client: MlflowClient | None = None
        self._settings = ClientSettings(config.request_timeout_s)
        self._system_metrics: Any = None
        self._sender: MetricSender | None = None
        self._left_out = {_INFINITIES_TAG: 0, _REFUSED_TAG: 0}
        self._ended: float | None = None
        self._opening = uuid.uuid4().hex
        self._asked_to_create = False

    @property
    def client(self) -> MlflowClient:
        """MLflow's client for this store, for use with `mlflow_run_id`.

        Raises:
            TrackerError: if the run is not open yet.
        """
        if self._client is None:
            raise TrackerError("the MLflow run is not open yet", hint="MLflow opens in the background of a run")
        return self._client

    def open(self, run: RunDescription) -> None:
        """Create the MLflow run, or continue the one of an earlier attempt, and log parameters and specs."""
        config = self.tracker_config
        self._ended = run.ended
        self.store = self._store_for(run)
        set_process_defaults()
        self._settings.apply()
        with as_tracker_errors(self.store.shown_uri):
            self._client, self.experiment_id = open_experiment(
                self.store, config.experiment or run.name, config.artifact_location
            )
            if self.mlflow_run_id is None:  # None unless an earlier opening failed half-way
                self._start_or_continue(run)
            self._log_params(run)
            for path in (run.spec_path, run.resolved_spec_path):
                if path is not None and path.exists():
                    self.client.log_artifact(self.mlflow_run_id, str(path), "spec")
            if config.log_system_metrics and self._system_metrics is None and run.ended is None:
                self._system_metrics = start_system_metrics(self.store.uri, str(self.mlflow_run_id))

    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Send the values with the update as MLflow's step; values sent twice are kept once.

        A value that MLflow refuses is left out and counted; the others are sent.
        """
        metrics, infinities = to_metrics(records)
        with as_tracker_errors(self.store.shown_uri):
            if self._sender is None:
                self._sender = MetricSender(self.client, self._id)
            for request in in_requests(metrics, MAX_METRICS):
                self._sender.send(request)
        self._left_out[_INFINITIES_TAG] += infinities

    def undelivered(self, records: Sequence[MetricRecord]) -> Sequence[MetricRecord]:
        """Return the values of these records that the MLflow run does not have."""
        with as_tracker_errors(self.store.shown_uri):
            return not_in_history(self.client, self._id, records)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file."""
        with as_tracker_errors(self.store.shown_uri):
            self.client.log_artifact(self._id, str(path), folder or None)

    def close(self, status: RunStatus, error: str | None) -> None:
        """Set the final status; the text of an error becomes a tag, and in full the artifact `error.txt`."""
        if self._system_metrics is not None:
            stop_system_metrics(self._system_metrics)
            self._system_metrics = None
        with as_tracker_errors(self.store.shown_uri):
            refused = self._sender.refused if self._sender else 0
            for tag, before in self._left_out.items():
                if count := before + (refused if tag == _REFUSED_TAG else 0):
                    self.client.set_tag(self._id, tag, count)
            if error:
                self.client.set_tag(self._id, _ERROR_TAG, error[:MAX_TAG_LENGTH])
                self.client.log_text(self._id, error, "error.txt")
            self.client.set_terminated(self._id, status=status, end_time=_milliseconds(self._ended))
        self._settings.revert()

    @property
    def reference(self) -> dict[str, str]:
        """The store and, once open, the MLflow run, for a later attempt that continues it."""
        store = {"store": self.store.shown_uri}
        return store if self.mlflow_run_id is None else {**store, "run_id": self.mlflow_run_id}

    @property
    def patience_s(self) -> float:  # type: ignore[override]  # the base class needs a plain value only
        """Seconds that the start of training waits: more for a SQLite database, which may have to be created."""
        return _DATABASE_PATIENCE_S if self.store.database else BaseTracker.patience_s

    @property
    def url(self) -> str | None:
        """Page with the run's curves; for a database, the address at which `mlflow ui` will serve it."""
        if self.experiment_id is None or self.mlflow_run_id is None:
            return None
        return run_link(self.store, self.experiment_id, self.mlflow_run_id)

    @property
    def description(self) -> str:
        """The run's address, and the command that serves it if one is needed."""
        command = ui_command(self.store)
        where = self.url or self.store.shown_uri
        return f"{where}  (after `{command}`)" if command else where

    @property
    def _id(self) -> str:
        if self.mlflow_run_id is None:
            raise TrackerError("the MLflow run is not open yet")
        return self.mlflow_run_id

    def _store_for(self, run: RunDescription) -> Store:
        """Return the store that already holds the run, unless its spec names another one now.

        Without a `tracking_uri`, a run that continues in another folder or environment would resolve to another
        database.
        """
        kept = run.reference.get("store")
        if kept is None or kept == self.store.shown_uri:
            return self.store
        is_by_default = self.tracker_config.tracking_uri is None
        return resolve_store(kept, {}, Path.cwd()) if is_by_default or run.ended is not None else self.store

    def _start_or_continue(self, run: RunDescription) -> None:
        known = run.reference if run.reference.get("store") == self.store.shown_uri else {}
        if "run_id" in known:
            self._continue(run, known["run_id"])
            return
        run_name = self.tracker_config.run_name or run.run_id
        self._opening = run.token or self._opening
        asked_before = self._asked_to_create or bool(known)  # by this process, or by an earlier one that died
        self.mlflow_run_id = self._created_unnoticed() if asked_before else None
        self._asked_to_create = True
        if self.mlflow_run_id is None:
            created = self.client.create_run(
                str(self.experiment_id),
                tags=run_tags(run, run_name) | {_OPENING_TAG: self._opening},
                run_name=run_name,
                start_time=_milliseconds(run.started),
            )
            self.mlflow_run_id = created.info.run_id

    def _created_unnoticed(self) -> str | None:
        """Return the run that an earlier try created without receiving the reply."""
        found = self.client.search_runs(
            [str(self.experiment_id)], f"tags.`{_OPENING_TAG}` = '{self._opening}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _continue(self, run: RunDescription, run_id: str) -> None:
        known = self.client.get_run(run_id)
        self.experiment_id = known.info.experiment_id
        self._left_out = {name: int(known.data.tags.get(name, 0)) for name in self._left_out}
        if run.ended is None:
            self.client.update_run(run_id, status="RUNNING")
            from mlflow.entities import RunTag

            tags = [RunTag(name, value) for name, value in process_tags(run).items()]
            self.client.log_batch(run_id, tags=tags, synchronous=True)
        if _ERROR_TAG in known.data.tags:  # from a failed attempt
            self.client.delete_tag(run_id, _ERROR_TAG)
        self.mlflow_run_id = run_id

    def _log_params(self, run: RunDescription) -> None:
        """Log parameters that the MLflow run does not have, and those changed by a resume below `attempt/<n>/`.

        MLflow refuses a second value for a parameter.
        """
        logged = self.client.get_run(self._id).data.params
        params = to_params(run.params)
        changed = [
            key
            for key, param in zip(run.params, params, strict=True)
            if logged.get(param.key, param.value) != param.value
        ]
        params += to_params({f"attempt/{run.attempt}/{key}": run.params[key] for key in changed})
        for request in in_requests([param for param in params if param.key not in logged], MAX_PARAMS):
            self.client.log_batch(self._id, params=request, synchronous=True)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
