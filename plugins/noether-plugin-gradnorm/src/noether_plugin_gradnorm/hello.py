"""The run plugin `hello`: says how a run ended."""

from __future__ import annotations

import logging
from typing import Any

import noether

_logger = logging.getLogger(__name__)


@noether.hookimpl
def run_finished(run: Any, outcome: Any) -> None:
    """Log one line at the very end of a run, whatever became of it."""
    _logger.info("hello from noether-plugin-gradnorm: the run ended as %s", outcome.status)
