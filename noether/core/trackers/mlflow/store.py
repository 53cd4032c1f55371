"""The MLflow store of a run, resolved without importing mlflow, and links to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from noether.errors import PluginError

_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")


@dataclass(frozen=True, slots=True)
class Store:
    """Where MLflow keeps runs.

    Attributes:
        uri: What `MlflowClient` takes; a SQLite path in it is absolute.
        database: The file, for a SQLite store.
        is_default: Whether a plain `mlflow ui` in the working folder opens this store.
    """

    uri: str
    database: Path | None = None
    is_default: bool = False

    @property
    def is_server(self) -> bool:
        """Whether a server answers, and not a database."""
        return not self.uri.startswith(("sqlite", *_DATABASES))

    @property
    def shown_uri(self) -> str:
        """The address without user name and password, for messages and links."""
        parts = urlsplit(self.uri)
        if "@" not in parts.netloc:
            return self.uri
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def resolve_store(tracking_uri: str | None, environment: Mapping[str, str], folder: Path) -> Store:
    """Find the store: the config's, else MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder.

    Args:
        tracking_uri: What the config says.
        environment: The environment's variables.
        folder: The working folder.

    Raises:
        PluginError: If it is a store in plain files, which MLflow gave up, or nothing that MLflow knows.
    """
    uri = tracking_uri or environment.get("MLFLOW_TRACKING_URI")
    if not uri:
        database = folder.resolve() / "mlflow.db"
        # With runs of an old file store beside it, a plain `mlflow ui` opens that one.
        return Store(f"{_SQLITE}{database}", database, is_default=not (folder / "mlruns").exists())
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
        f"{source} = {uri!r} is no store that MLflow knows",
        hint="use sqlite:///folder/file.db, http://host:port, postgresql://… or mysql://…",
    )


def _file_store(uri: str, source: str) -> PluginError:
    path = uri.removeprefix("file:").removeprefix("//")
    return PluginError(
        f"{source} = {uri!r} is a store in plain files, which MLflow does not support any more",
        hint="use `sqlite:///mlflow.db`; runs that are already there move with "
        f"`mlflow migrate-filestore --source {path} --target sqlite:///mlflow.db`",
    )


_LOCAL_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens by default."""


def run_link(store: Store, experiment_id: str, run_id: str) -> str:
    """Return the address of the run's curves.

    MLflow's pages open in the mode for language models, where a training run looks empty, unless the address
    asks for the other one.
    """
    base = store.shown_uri if store.uri.startswith("http") else _LOCAL_UI
    page = f"{base}/#/experiments/{experiment_id}/runs/{run_id}/model-metrics"
    return f"{page}?workflowType=machine_learning"


def ui_command(store: Store) -> str | None:
    """Return the command that serves the pages of a database; None where a server does already."""
    if store.is_server:
        return None
    return "mlflow ui" if store.is_default else f"mlflow ui --backend-store-uri {store.shown_uri}"
