"""The run plugin `hello`: logs a line at the end of a run."""

from __future__ import annotations

import logging
from typing import Any

import noether

_logger = logging.getLogger(__name__)


@noether.hookimpl
def run_finished(run: Any, outcome: Any) -> None:
    """Log one line at the end of a run, also after a failure."""
    _logger.info("hello from noether-plugin-gradnorm: the run ended as %s", outcome.status)
