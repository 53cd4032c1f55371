"""What happens when the disk refuses a save: `on_save_error` of `[checkpoints]`."""

from __future__ import annotations

import logging
from typing import Literal

from noether.core.writers.errors import FolderGoneError
from noether.core.writers.save_request import SaveRequest
from noether.errors import StorageError

OnSaveError = Literal["warn", "raise"]
TOLERATED = 3
"""Failed saves in a row that `warn` goes on after."""

_LOG = logging.getLogger("noether.checkpoints")


class SavePolicy:
    """Decides whether a run goes on after a failed save, and counts those in a row.

    Args:
        on_save_error: `raise` ends the run; `warn` goes on, and the next save is the next attempt. The save at the end
            of the run, or at a signal, always raises: no other comes after it.
    """

    def __init__(self, on_save_error: OnSaveError = "raise") -> None:
        self.on_save_error = on_save_error
        self.in_a_row = 0

    def succeeded(self) -> None:
        """Take note of a save."""
        self.in_a_row = 0

    def failed(self, error: StorageError, request: SaveRequest) -> None:
        """Warn of a failed save.

        Args:
            error: Why it failed.
            request: What was to be saved.

        Raises:
            StorageError: `error`, where the run must not go on.
        """
        self.in_a_row += 1
        if self.on_save_error == "raise" or request.is_last or isinstance(error, FolderGoneError):
            raise error
        if self.in_a_row > TOLERATED:
            error.add_note(f"{TOLERATED} saves before it have failed as well")
            raise error
        lost = f"; the names {', '.join(request.names)} stay where they were" if request.names else ""
        _LOG.warning("%s; training goes on (failed save %d of %d)%s", error.message, self.in_a_row, TOLERATED, lost)
