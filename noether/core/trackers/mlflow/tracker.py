"""The MLflow tracker: one MLflow run for each run, with parameters, curves, spec and final status."""

from __future__ import annotations

import logging
import math
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from noether.core.trackers.mlflow import page
from noether.core.trackers.mlflow.client import (
    EXPERIMENT_ID,
    OPENING_TAG,
    RUN_ID,
    RUN_ID_TAG,
    TRACKING_URI,
    ClientSettings,
    as_tracker_errors,
    forget_run,
    found_run,
    open_client,
    open_experiment,
    remember_credentials,
    set_process_defaults,
    start_system_metrics,
    stop_system_metrics,
)
from noether.core.trackers.mlflow.config import MAX_TAG_LENGTH, MlflowTrackerConfig, Names
from noether.core.trackers.mlflow.page import log_model
from noether.core.trackers.mlflow.requests import (
    ERROR_TAG,
    INFINITIES_TAG,
    NAMES_TAG,
    OF_THE_OWNER,
    REFUSED_TAG,
    History,
    MetricSender,
    ResultSender,
    counts_in,
    in_requests,
    logged_values,
    process_tags,
    run_tags,
    to_metrics,
)
from noether.core.trackers.mlflow.store import Store, is_named, kept_store, resolve_store, run_link, ui_command
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import Result
from noether.metrics.tracker import (
    BaseTracker,
    PackedModel,
    RunDescription,
    RunStatus,
    TrackerError,
    TrackerSettingError,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOGGER = logging.getLogger(__name__)


_LONG_PATIENCE_S = 30.0  # creating a new database takes several seconds, and needs no warning


class MlflowTracker(BaseTracker):
    """Log a run to an MLflow database or server.

    It uses its own client and never MLflow's global state, so that it does not interfere with the user's own use of
    MLflow in the same process.

    Args:
        tracker_config: Config from the spec; None for the defaults.

    Raises:
        PluginError: if MLflow does not support the tracking address.
    """

    address_field: ClassVar[str | None] = "tracking_uri"
    portable_fields: ClassVar[frozenset[str]] = frozenset(
        {"experiment", "run_name", "report", "request_timeout_s", "note", "group_metrics"}
    )

    tracker_config: MlflowTrackerConfig

    def __init__(self, tracker_config: MlflowTrackerConfig | None = None) -> None:
        config = tracker_config or MlflowTrackerConfig(kind="mlflow")
        super().__init__(config)
        self.wants_report, self.wants_model = config.report, config.log_model
        self.store = resolve_store(config.tracking_uri, os.environ, Path.cwd())
        remember_credentials(self.store.uri, os.environ)
        self.experiment_id: str | None = None
        self.mlflow_run_id: str | None = None
        self._client: MlflowClient | None = None
        self._settings = ClientSettings(config.request_timeout_s)
        self._system_metrics: Any = None
        self._sender: MetricSender | None = None
        self._results: ResultSender | None = None
        self._history: History | None = None
        self._names = Names(config.group_metrics)
        self._parameters: page.Parameters | None = None
        self._tags: dict[str, str] = {}
        self._left_out = {INFINITIES_TAG: 0, REFUSED_TAG: 0}
        self._ended: float | None = None
        self._opening = uuid.uuid4().hex
        self._asked_to_create = self._is_said = False

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
        self._ended = run.ended
        self.store = self._store_for(run)
        set_process_defaults()
        self._settings.apply()
        with as_tracker_errors(self.store.shown_uri):
            self._client = open_client(self.store)
            if self.mlflow_run_id is None:  # None unless an earlier opening failed half-way
                self._start_or_continue(run)
            self._parameters = page.Parameters(self.client, self._id, run.attempt)
            self._parameters.log(run.params)
            page.log_datasets(self.client, self._id, run.datasets)
            for path in (run.spec_path, run.resolved_spec_path):
                if path is not None and path.exists() and run.ended is None:
                    self.client.log_artifact(self._id, str(path), "spec")
            if self.tracker_config.log_system_metrics and self._system_metrics is None and run.ended is None:
                self._system_metrics = start_system_metrics(self.client, self.store.uri, self._id)

    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Send the values with the update as MLflow's step.

        A value that MLflow refuses is left out and counted; the others are sent.
        """
        metrics, infinities = to_metrics(records, self._names)
        with as_tracker_errors(self.store.shown_uri):
            if (counts := counts_in(records, self._names)) and self._parameters is not None:
                self._parameters.log(counts)
            self._sender = self._sender or MetricSender(self.client, self._id)
            for request in in_requests(metrics, self._sender.largest):
                self._sender.send(request)
        self._left_out[INFINITIES_TAG] += infinities

    def undelivered(self, records: Sequence[MetricRecord]) -> Sequence[MetricRecord]:
        """Return the values of these records that the MLflow run does not have."""
        with as_tracker_errors(self.store.shown_uri):
            return self._looked_up().missing_in(records)

    def newest_update(self) -> int | None:
        """Return the newest update that the MLflow run has."""
        self._history = None
        with as_tracker_errors(self.store.shown_uri):
            return self._looked_up().newest

    def logged(self, keys: Collection[str]) -> Mapping[str, Mapping[int, Sequence[float]]] | None:
        """Return the values that the MLflow run has."""
        with as_tracker_errors(self.store.shown_uri):
            return logged_values(self.client, self._id, keys, self._names)

    def takes(self, value: float) -> bool:
        """Return False for an infinity, which flattens MLflow's charts."""
        return not math.isinf(value)

    def shows(self, key: str) -> bool:
        """Return False for a count, which is a parameter."""
        return not self._names.is_parameter(key)

    def describe(self, text: str) -> None:
        """Replace the description of the MLflow run, unless a user has changed it."""
        with as_tracker_errors(self.store.shown_uri):
            page.update_note(self.client, self._id, self._with_note(text))

    def log_model(self, model: PackedModel) -> None:
        """Keep the model as a logged model of the MLflow run, and register it if the spec names a registered model."""
        with as_tracker_errors(self.store.shown_uri):
            log_model(self.client, str(self.experiment_id), self._id, model, self.tracker_config.register_as)

    def log_result(self, result: Result, path: Path) -> None:
        """Upload it, and show a figure by its step."""
        with as_tracker_errors(self.store.shown_uri):
            self._result_sender().send(result, path)

    def results_missing(self, results: Sequence[Result]) -> Sequence[Result] | None:
        """Return the results whose artifact, or whose image of its step, the MLflow run lacks or has otherwise."""
        with as_tracker_errors(self.store.shown_uri):
            return self._result_sender().missing(results)

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
                if count := before + (refused if tag == REFUSED_TAG else 0):
                    self.client.set_tag(self._id, tag, count)
            if error:
                self.client.set_tag(self._id, ERROR_TAG, error[:MAX_TAG_LENGTH])
                self.client.log_text(self._id, error, "error.txt")
            page.settle_parent(self.client, self._id, str(self.experiment_id), self._tags)
            self.client.set_terminated(self._id, status=status, end_time=_milliseconds(self._ended))
        self._settings.revert()

    def forget(self, run: RunDescription) -> bool | None:
        """Mark the MLflow run as deleted if its tags name the run; MLflow can restore it."""
        with self._settings, as_tracker_errors(self.store.shown_uri):
            return forget_run(self.store, run)

    @property
    def reference(self) -> dict[str, str]:
        """The store and, once open, the MLflow run, for a later attempt that continues it."""
        store = {"store": self.store.shown_uri}
        return store if self.mlflow_run_id is None else {**store, "run_id": self.mlflow_run_id}

    @property
    def address(self) -> str:
        """The store, without user name and password."""
        return self.store.shown_uri

    @property
    def patience_s(self) -> float:  # type: ignore[override]  # the base class needs a plain value only
        """Seconds that the start of training waits.

        More for a SQLite database, which may have to be created, and for an id of the environment, which may be wrong.
        """
        waits = self.store.database or os.environ.get(RUN_ID) or os.environ.get(EXPERIMENT_ID)
        return _LONG_PATIENCE_S if waits else BaseTracker.patience_s

    @property
    def url(self) -> str | None:
        """Page with the run's curves; for a database, the address at which `mlflow ui` will serve it."""
        if self.experiment_id is None or self.mlflow_run_id is None:
            return None
        return run_link(self.store, self.experiment_id, self.mlflow_run_id)

    @property
    def description(self) -> str:
        """The run's address, and the command that serves it if one is needed."""
        where = self.url or self.store.shown_uri
        return f"{where}  (after `{command}`)" if (command := ui_command(self.store)) else where

    @property
    def _id(self) -> str:
        if self.mlflow_run_id is None:
            raise TrackerError("the MLflow run is not open yet")
        return self.mlflow_run_id

    def _looked_up(self) -> History:
        self._history = self._history or History(self.client, self._id, self._names)
        return self._history

    def _result_sender(self) -> ResultSender:
        self._results = self._results or ResultSender(self.client, self._id)
        return self._results

    def _store_for(self, run: RunDescription) -> Store:
        """Return the store that already holds the run, unless its spec names another one now."""
        given, kept = self.tracker_config.tracking_uri, (run.reference or run.continues).get("store")
        store = self.store if given or kept is None else kept_store(kept, self.store, run.run_dir)
        if os.environ.get(TRACKING_URI) and not self._is_said and not is_named(store, os.environ):
            why = "tracking_uri is set" if given else "the run is there already"
            _LOGGER.info("%s is ignored: %s, the store is %s", TRACKING_URI, why, store.shown_uri)
        self._is_said = True
        return store

    def _start_or_continue(self, run: RunDescription) -> None:
        known = run.reference if run.reference.get("store") == self.store.shown_uri else {}
        if "run_id" in known and self._continue(run, known["run_id"]):
            return
        self.experiment_id = open_experiment(
            self.client, self.store, self.tracker_config.experiment, run.name, self.tracker_config.artifact_location
        )
        self._opening = run.token or self._opening
        self._tags = {**run.tags, **self.tracker_config.tags}
        if self._adopt(run):
            return
        run_name = self.tracker_config.run_name or run.run_id
        # By an earlier try of this process, or by an earlier process that died.
        may_exist = self._asked_to_create or bool(known) or run.attempt > 1 or run.ended is not None
        self.mlflow_run_id = self._created_unnoticed() if may_exist else None
        self._asked_to_create = True
        if self.mlflow_run_id is None:
            parent = page.parent_tags(self.client, str(self.experiment_id), self._tags)
            created = self.client.create_run(
                str(self.experiment_id),
                tags={**run_tags(run, run_name), **self._own_tags(run), **parent},
                run_name=run_name,
                start_time=_milliseconds(run.started),
            )
            self.mlflow_run_id = created.info.run_id

    def _own_tags(self, run: RunDescription) -> dict[str, str]:
        """Return the tags of a new MLflow run that the spec decides."""
        names = {NAMES_TAG: "grouped"} if self._names.grouped else {}
        note = page.note_tags(self._with_note(run.summary))
        return {**note, **names, **self.tracker_config.tags, OPENING_TAG: self._opening}

    def _with_note(self, text: str) -> str:
        return "\n\n".join(filter(None, (self.tracker_config.note, text)))

    def _created_unnoticed(self) -> str | None:
        """Return the run that an earlier try created without receiving the reply."""
        by_token = f"tags.`{OPENING_TAG}` = '{self._opening}'"
        found = self.client.search_runs([str(self.experiment_id)], by_token, max_results=1)
        if not found:
            return None
        self._names = Names(grouped=NAMES_TAG in found[0].data.tags)
        return str(found[0].info.run_id)

    def _continue(self, run: RunDescription, run_id: str) -> bool:
        """Continue the MLflow run of an earlier attempt; False if the store does not have it any more.

        Raises:
            TrackerSettingError: if it is not the one that was created for this run.
        """
        known = found_run(self.client, run_id)
        if known is None:
            _LOGGER.warning("the MLflow run %s is gone from %s: a new one is begun", run_id, self.store.shown_uri)
            return False
        if run.token and known.data.tags.get(OPENING_TAG, run.token) != run.token:
            raise TrackerSettingError(
                f"the MLflow run {run_id} at {self.store.shown_uri} was created for another run than {run.run_id}",
                hint="remove spool/ of the run folder: the run gets an MLflow run of its own",
            )
        self.experiment_id = known.info.experiment_id
        self._names = Names(grouped=NAMES_TAG in known.data.tags)  # those of an earlier version stay as they are
        self._tags = {**run.tags, **self.tracker_config.tags}
        self._left_out = {name: int(known.data.tags.get(name, 0)) for name in self._left_out}
        if run.ended is None:
            self._reopen(run_id, process_tags(run))
        if ERROR_TAG in known.data.tags:  # from a failed attempt
            self.client.delete_tag(run_id, ERROR_TAG)
        self.mlflow_run_id = run_id
        for name, used in ((RUN_ID, run_id), (EXPERIMENT_ID, self.experiment_id)):
            if os.environ.get(name, used) != used:
                _LOGGER.info("%s is ignored: the run continues in its MLflow run %s", name, run_id)
        return True

    def _adopt(self, run: RunDescription) -> bool:
        """Log to the MLflow run that MLFLOW_RUN_ID names, as MLflow's client does; False if there is none to use.

        It serves one run only: two would show two points for one update.

        Raises:
            TrackerSettingError: if the store has no such run, or it was deleted.
        """
        wanted = os.environ.get(RUN_ID)
        if not wanted or run.continues:
            return False
        found = found_run(self.client, wanted)
        if found is None or found.info.lifecycle_stage == "deleted":
            raise TrackerSettingError(
                f"unknown MLflow run: found {RUN_ID} = {wanted!r}, expected the id of one at {self.store.shown_uri}",
                hint=f"unset {RUN_ID}: a new MLflow run is created",
            )
        if found.data.tags.get(OPENING_TAG, self._opening) != self._opening:
            ignored = f"that MLflow run has the run {found.data.tags.get(RUN_ID_TAG, '')}"
        elif self.tracker_config.experiment and found.info.experiment_id != self.experiment_id:
            ignored = f"that MLflow run is not in the experiment {self.tracker_config.experiment!r} of the spec"
        else:
            name = {"mlflow.runName": self.tracker_config.run_name} if self.tracker_config.run_name else {}
            tags = {**run_tags(run, ""), **self._own_tags(run)}
            if OPENING_TAG in found.data.tags:  # an earlier attempt has begun it
                self._names = Names(grouped=NAMES_TAG in found.data.tags)
                tags.pop(NAMES_TAG, None)
            kept = {key: value for key, value in tags.items() if key not in OF_THE_OWNER}
            self._reopen(wanted, kept | name)
            self.experiment_id, self.mlflow_run_id = found.info.experiment_id, wanted
            return True
        _LOGGER.warning("%s = %s is ignored: %s", RUN_ID, wanted, ignored)
        return False

    def _reopen(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.update_run(run_id, status="RUNNING")
        self.client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
