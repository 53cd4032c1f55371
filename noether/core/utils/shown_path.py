"""How messages write paths."""

from __future__ import annotations

from pathlib import Path


def shown_path(path: Path) -> Path:
    """Return a path as the user would type it: from the working folder where it is below, else absolute."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):  # elsewhere, or the working folder is gone
        return path
