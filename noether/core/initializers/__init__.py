"""Initializers: sources of the state that training begins with."""

from noether.config.components import InitializerConfig
from noether.core.initializers.resume import ResumeInitializer, ResumeInitializerConfig
from noether.core.initializers.weights import (
    CheckpointInitializer,
    CheckpointInitializerConfig,
    InitializerBase,
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
