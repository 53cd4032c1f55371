"""What an error says, for logs, records and trackers."""

from __future__ import annotations

from noether.config.secrets import mask
from noether.errors import NoetherError


def describe(error: BaseException) -> str:
    """Return what an error says, with the notes that name the callback it came from, and without secrets."""
    text = error.message if isinstance(error, NoetherError) else f"{type(error).__name__}: {error}"
    notes = getattr(error, "__notes__", [])
    return mask("\n".join([text, *notes]))
