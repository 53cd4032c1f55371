"""The MLflow store of a run, resolved without importing mlflow, links to it, and the answers of its server."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from noether.errors import PluginError
from noether.kernel.trust import run_folder_of
from noether.metrics.tracker import TrackerError, TrackerSettingError

if TYPE_CHECKING:
    from mlflow import MlflowClient


DATABASE = "mlflow.db"
"""Name of the default database."""
_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")


@dataclass(frozen=True, slots=True)
class Store:
    """A store of MLflow runs: a database or a server.

    Attributes:
        uri: Address for `MlflowClient`; a SQLite path in it is absolute.
        database: File of a SQLite store.
        is_default: True if a plain `mlflow ui` in the working folder opens this store.
    """

    uri: str
    database: Path | None = None
    is_default: bool = False

    @property
    def is_server(self) -> bool:
        """True for a server, False for a database."""
        return not self.uri.startswith(("sqlite", *_DATABASES))

    @property
    def shown_uri(self) -> str:
        """Address without user name and password, for messages and links."""
        parts = urlsplit(self.uri)
        if "@" not in parts.netloc:
            return self.uri
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def resolve_store(tracking_uri: str | None, environment: Mapping[str, str], folder: Path) -> Store:
    """Return the store of the config, else of MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder.

    A working folder in a run folder has no database: what lies there may come from a stranger, such as a link, or a
    database that names the places of files. The folder that holds the run has it then.

    Args:
        tracking_uri: `tracking_uri` of the config.
        environment: Environment variables.
        folder: Working folder.

    Raises:
        PluginError: if MLflow does not support the store, as it has dropped stores in plain files; or the database
            beside a run folder is a link.
    """
    uri = tracking_uri or environment.get("MLFLOW_TRACKING_URI")
    if not uri:
        return _default_store(folder)
    source = "tracking_uri" if tracking_uri else "MLFLOW_TRACKING_URI"
    if uri.startswith(_SQLITE):
        path, _, options = uri.removeprefix(_SQLITE).partition("?")
        database = (folder / unquote(path)).resolve()
        return Store(f"{_SQLITE}{database}" + (f"?{options}" if options else ""), database)
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("http", "https", "databricks", *_DATABASES) or uri == "databricks":
        return Store(uri.rstrip("/"))
    if scheme in ("", "file"):
        raise _file_store(uri, source)
    raise PluginError(
        f"unknown MLflow store: found {source} = {uri!r}, expected a database or a server",
        hint="use sqlite:///folder/file.db, http://host:port, postgresql://… or mysql://…",
    )


def _default_store(folder: Path) -> Store:
    run = run_folder_of(folder)
    database = (folder if run is None else run.parent).resolve() / DATABASE
    if run is not None and database.is_symlink():
        raise PluginError(
            f"{database} beside the run folder is a link, which may come from a stranger",
            hint=f"if it is yours, set MLFLOW_TRACKING_URI={_SQLITE}{database}, or stand in another folder",
        )
    # A plain `mlflow ui` opens an old file store beside the database instead.
    is_default = run is None and not (folder / "mlruns").exists()
    return Store(f"{_SQLITE}{database}", database, is_default)


def kept_store(kept: str, own: Store, run_dir: Path) -> Store:
    """Return the store that a run folder names, so that a run continues where it is from another working folder.

    The folder may come from a stranger. So it may name the user's own store, or the database in a folder above the run.

    Args:
        kept: Address of the store.
        own: Store of the spec or the environment, or the default one.
        run_dir: The run folder.

    Raises:
        TrackerSettingError: if it names another one.
    """
    store = own if kept == own.shown_uri else resolve_store(kept, {}, Path.cwd())
    if store is not own and store.database not in [place / DATABASE for place in run_dir.parents]:
        raise TrackerSettingError(
            f"only the run folder names the store of its run: found {store.shown_uri!r}, expected that of the spec or "
            f"the environment, {own.shown_uri!r}",
            hint=f"if it is yours, set MLFLOW_TRACKING_URI={store.shown_uri}; else remove the spool/ of the run: "
            "it gets an MLflow run of its own",
        )
    return store


def is_named(store: Store, environment: Mapping[str, str]) -> bool:
    """Return True if MLFLOW_TRACKING_URI names a store; an address that is ignored may be any."""
    try:
        return resolve_store(None, environment, Path.cwd()).shown_uri == store.shown_uri
    except (PluginError, ValueError):
        return False


def _file_store(uri: str, source: str) -> PluginError:
    path = uri.removeprefix("file:").removeprefix("//")
    return PluginError(
        f"unsupported MLflow store: found {source} = {uri!r}, a store in plain files, expected a database or a server",
        hint="use `sqlite:///mlflow.db`; move existing runs with "
        f"`mlflow migrate-filestore --source {path} --target sqlite:///mlflow.db`",
    )


_LOCAL_UI = "http://127.0.0.1:5000"
"""Default address of `mlflow ui`."""


def run_link(store: Store, experiment_id: str, run_id: str) -> str:
    """Return the address of the run's curves.

    Without `workflowType` MLflow's pages open in the mode for language models, in which a training run looks empty.
    """
    base = store.shown_uri if store.uri.startswith("http") else _LOCAL_UI
    page = f"{base}/#/experiments/{experiment_id}/runs/{run_id}/model-metrics"
    return f"{page}?workflowType=machine_learning"


def ui_command(store: Store) -> str | None:
    """Return the command that serves the pages of a database; None for a server."""
    if store.is_server:
        return None
    return "mlflow ui" if store.is_default else f"mlflow ui --backend-store-uri {store.shown_uri}"


class RequestTooLargeError(TrackerError):
    """The server refuses a request of this size (413)."""


_ANSWERS = {
    "CreateExperiment": ("experiment_id",),
    "GetExperiment": ("experiment", "experiment_id"),
    "GetExperimentByName": ("experiment", "experiment_id"),
    "CreateRun": ("run", "info", "run_id"),
    "GetRun": ("run", "info", "run_id"),
    "UpdateRun": ("run_info", "run_id"),
    "SearchRuns": ("runs",),
    "GetMetricHistory": ("metrics",),
    "LogBatch": (),
    "SetTag": (),
    "DeleteTag": (),
    "DeleteRun": (),
}
"""Requests of MLflow's REST interface, and the place in their answers that is never left out."""

_MAY_BE_EMPTY = {"SearchRuns", "GetMetricHistory"}
"""Answers that leave an empty list out."""

_REDIRECTS_THAT_FORGET = {301, 302, 303}
"""HTTP statuses after which clients repeat a POST as a GET, without its content."""


def checked_client(uri: str, place: str) -> MlflowClient:
    """Return a client that takes an answer for a delivery only if it is MLflow's.

    MLflow's own client takes an empty answer with status 200 for success, and follows redirects that drop the content.

    Args:
        uri: Address of the store.
        place: The address in messages.
    """
    from mlflow import MlflowClient
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.tracking._tracking_service.client import TrackingServiceClient
    from mlflow.utils.proto_json_utils import parse_dict
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    client = MlflowClient(tracking_uri=uri)
    plain = client._tracking_client.store
    if type(plain) is not RestStore:
        return client

    class CheckedStore(RestStore):  # type: ignore[misc]  # mlflow has no types for it
        def _call_endpoint(self, api: Any, json_body: str | None = None, *rest: Any, **options: Any) -> Any:
            if api.__name__ not in _ANSWERS or rest or options:
                return super()._call_endpoint(api, json_body, *rest, **options)
            path, method = self._METHOD_TO_INFO[api]
            content = json.loads(json_body) if json_body else None
            sent = {"params": content} if method == "GET" else {"json": content}
            response = http_request(self.get_host_creds(), path, method, raise_on_status=False, **sent)
            _require_answer(response, path, place)
            text = response.text  # `verify_rest_response` replaces an empty one
            verify_rest_response(response, path)  # raises the error that the server answers with
            parse_dict(_require_content(text, api.__name__, path, place), answer := api.Response())
            return answer

    class CheckedTracking(TrackingServiceClient):  # type: ignore[misc]  # the same
        store = CheckedStore(plain.get_host_creds)

    client._tracking_client = CheckedTracking(uri)
    return client


def _require_answer(response: Any, path: str, place: str) -> None:
    """Raise an error for a response that asks to wait, is redirected, or refuses the size of the request."""
    moved = [each for each in (*response.history, response) if each.status_code in _REDIRECTS_THAT_FORGET]
    if moved and moved[0].request.method == "POST":
        target = moved[0].headers.get("Location", "")
        raise TrackerError(
            f"MLflow at {place}: {path} is redirected to {target[:200]!r} with status {moved[0].status_code}",
            hint="set tracking_uri to the address of the server itself, or sign in",
        )
    if response.status_code == 413:
        raise RequestTooLargeError(f"MLflow at {place}: {path} refuses the request as too large (status 413)")
    wait = _seconds(response.headers.get("Retry-After", ""))
    if response.status_code in (429, 503) and wait > 0:
        raise TrackerError(
            f"MLflow at {place}: status {response.status_code}, asks to wait {wait:.0f} s", retry_after_s=wait
        )


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, which holds a number or a date."""
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _require_content(text: str, call: str, path: str, place: str) -> Any:
    """Return the content of a successful response.

    Raises:
        TrackerError: if it is not that of MLflow's answer to this call.
    """
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    steps, inner = _ANSWERS[call], found
    for step in steps:
        inner = inner.get(step) if isinstance(inner, dict) else None
    if isinstance(found, dict):
        is_right = bool(inner) if steps else found == {}
        if is_right or (call in _MAY_BE_EMPTY and (found == {} or inner == [])):
            return found
    expected = f"an object with {'.'.join(steps)}" if steps else "{}"
    raise TrackerError(
        f"MLflow at {place}: wrong answer of {path}: found {text[:80]!r}, expected {expected}",
        hint="another service, or a proxy before the server, may answer at this address",
    )
