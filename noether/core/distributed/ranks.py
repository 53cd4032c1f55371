"""Which rank this process is, and of how many."""

from __future__ import annotations

import os


def rank() -> int:
    """Return the number of this process within the run."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))
