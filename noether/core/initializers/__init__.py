"""Initializers: sources of the state that training begins with."""

from noether.core.initializers.base import InitializerBase, InitializerConfig
from noether.core.initializers.resume import ResumeInitializer, ResumeInitializerConfig
from noether.core.initializers.weights import (
    CheckpointInitializer,
    CheckpointInitializerConfig,
    PreviousRunInitializer,
    PreviousRunInitializerConfig,
)

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
