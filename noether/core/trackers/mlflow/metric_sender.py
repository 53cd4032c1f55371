"""Sending values to MLflow when it may refuse one of them: the others arrive."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

_LOGGER = logging.getLogger(__name__)
_REFUSED = "INVALID_PARAMETER_VALUE"
_TOO_MANY = 20
"""A store that refuses so many values refuses everything."""


class MetricSender:
    """Sends values, and leaves out those that MLflow refuses.

    Args:
        client: MLflow's client.
        run_id: The MLflow run.

    Attributes:
        refused: How many values were left out.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.refused = 0
        self._client = client
        self._run_id = run_id

    def send(self, metrics: Sequence[Metric]) -> None:
        """Send the values in one request, or in halves of it as long as that is refused.

        Raises:
            MlflowException: If the store cannot be reached, or refuses the run and not a value of it.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        except MlflowException as error:
            if error.error_code != _REFUSED:
                raise
            if len(metrics) > 1:
                middle = len(metrics) // 2
                self.send(metrics[:middle])
                self.send(metrics[middle:])
                return
            if self.refused >= _TOO_MANY or self._client.get_run(self._run_id).info.lifecycle_stage == "deleted":
                raise
            self.refused += 1
            _LOGGER.warning("MLflow refused %s = %r: %s", metrics[0].key, metrics[0].value, error.message[:200])
