"""Settings of MLflow's client that live in the environment and in loggers, for the time of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from noether.core.utils.secrets import remember_password_in, remember_secret

_FOR_THE_PROCESS = {
    # MLflow reports its use to its makers by default; a run makes no connection that nobody asked for.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It prints hints for coding agents into the output of a run.
    "MLFLOW_DISABLE_AGENT_HINT": "true",
}

_CREDENTIALS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "DATABRICKS_TOKEN")

_NOISY_LOGGERS = (
    "alembic",
    "mlflow.store.db.utils",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.system_metrics.system_metrics_monitor",
)


def set_process_defaults() -> None:
    """Set what has to be set before mlflow is imported; what the user has set stays."""
    for name, value in _FOR_THE_PROCESS.items():
        os.environ.setdefault(name, value)


def remember_credentials(uri: str, environment: Mapping[str, str]) -> None:
    """Mask what the client signs in with, which errors of the network may quote."""
    remember_password_in(uri)
    for name in _CREDENTIALS:
        remember_secret(environment.get(name, ""))


class ClientSettings:
    """Makes MLflow's client give up early, because the tracker feed tries again by itself, and print nothing.

    With MLflow's own settings one request to a dead server blocks for minutes, and its retries draw their
    jitter from Python's global random generator, which belongs to the training. The client offers no other
    place for these settings than the environment. What the user has set stays.

    Args:
        timeout_s: Seconds to wait for a reply.
    """

    def __init__(self, timeout_s: int) -> None:
        self._wanted = {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        }
        self._set: list[str] = []

    def apply(self) -> None:
        """Set the variables that are not set yet."""
        for name, value in self._wanted.items():
            if name not in os.environ:
                os.environ[name] = value
                self._set.append(name)

    def revert(self) -> None:
        """Leave the environment as it was found."""
        while self._set:
            os.environ.pop(self._set.pop(), None)


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Keep what MLflow logs about its own doings, fifty lines for a new database, out of the run's output."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
