"""Which of MLflow's errors are worth another try."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from noether.core.trackers.errors import TrackerError, TrackerRefusedError

_FINAL = {
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "PERMISSION_DENIED",
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
}
"""MLflow says the same again: wrong credentials, a deleted run, a value that it does not take."""


@contextmanager
def as_tracker_errors(place: str) -> Iterator[None]:
    """Turn MLflow's exceptions into ours, which tell the feed whether to try again.

    Args:
        place: The store, for the message.
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
    """Return the root of the matter; the client wraps what the network said several times."""
    root: BaseException = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    text = str(root) or type(root).__name__
    return text.splitlines()[0][:200]
