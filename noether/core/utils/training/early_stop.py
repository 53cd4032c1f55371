"""EarlyStopIteration: how a callback ends training before its limit."""

from __future__ import annotations


class EarlyStopIteration(Exception):  # noqa: N818  # like StopIteration: an end, and no error
    """Raised by a callback: training ends after the round, with a checkpoint, and the run has finished.

    The other callbacks of the round are still called, and the round of the epoch where the update completed one.

    Args:
        reason: Why, for the log: `"loss/val/total has not improved for 5 intervals"`.

    Attributes:
        reason: Why.
        source: Who raised it in a hook: `callback 'stopper'`; empty until the hook has caught it.
    """

    source: str = ""

    def __init__(self, reason: str = "a callback asked for it") -> None:
        super().__init__(reason)
        self.reason = reason
