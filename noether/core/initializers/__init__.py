"""Initializers: where the state comes from that training begins with."""

from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.initializers.checkpoint import CheckpointInitializer, CheckpointInitializerConfig
from noether.core.initializers.previous_run import PreviousRunInitializer, PreviousRunInitializerConfig
from noether.core.initializers.resume import ResumeInitializer, ResumeInitializerConfig

__all__ = [
    "CheckpointInitializer",
    "CheckpointInitializerConfig",
    "InitializerBase",
    "InitializerConfig",
    "PreviousRunInitializer",
    "PreviousRunInitializerConfig",
    "ResumeInitializer",
    "ResumeInitializerConfig",
]
