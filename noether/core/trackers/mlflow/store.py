"""The MLflow store of a run, resolved without importing mlflow, and links to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from noether.errors import PluginError
from noether.kernel.trust import run_folder_of
from noether.metrics.tracker import TrackerSettingError

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
