"""Documented import path of the writers of a run folder.

Names are imported on first use, so that listing and verifying checkpoints needs no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether.checkpoint.writer import CheckpointWriter as CheckpointWriter
    from noether.metrics.log import LogWriter as LogWriter
    from noether.metrics.metrics_file import MetricsFile as MetricsFile

_HOMES = {
    "CheckpointWriter": "noether.checkpoint.writer",
    "LogWriter": "noether.metrics.log",
    "MetricsFile": "noether.metrics.metrics_file",
}
__all__ = ["CheckpointWriter", "LogWriter", "MetricsFile"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'noether.core.writers' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
