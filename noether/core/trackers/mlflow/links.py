"""Where to look at a run: addresses and commands for a terminal."""

from __future__ import annotations

from noether.core.trackers.mlflow.store import Store

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
