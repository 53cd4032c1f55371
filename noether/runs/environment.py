"""What a run's exact bytes depend on beside its spec: versions and machine, recorded and compared on a resume."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any


def environment() -> dict[str, str]:
    """Return the versions and the machine of this process."""
    import torch

    return {
        "noether": version("noether-train"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def environment_changes(recorded: Mapping[str, Any]) -> list[str]:
    """Return how this process differs from the one that a run began in, a line for each fact: `torch 2.12 → 2.13`."""
    now = environment()
    return [
        f"{fact} {recorded[fact]} → {value}"
        for fact, value in now.items()
        if fact in recorded and str(recorded[fact]) != value
    ]
