"""The note on an exception that says whose code raised it, and where in the run."""

from __future__ import annotations

from typing import Any

from noether.kernel.implementation import Implementation

_START = "raised by "


def add_note(error: BaseException, implementation: Implementation, update_counter: Any) -> None:
    """Add `raised by callback 'ema' (kind ema, noether-train 0.1.0) in hook after_update at update 120`."""
    update = getattr(update_counter, "update", None)
    where = f" at update {update}" if isinstance(update, int) else ""
    error.add_note(f"{_START}{implementation.participant.description} in hook {implementation.hook}{where}")


def add_first_note(error: BaseException, implementation: Implementation, update_counter: Any) -> None:
    """Add the note unless the exception came to a wrapper from inside, where it got one already."""
    if not any(note.startswith(_START) for note in getattr(error, "__notes__", ())):
        add_note(error, implementation, update_counter)
