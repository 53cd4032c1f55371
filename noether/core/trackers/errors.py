"""What can go wrong between a run and its tracker."""

from __future__ import annotations

from noether.errors import NoetherError


class TrackerError(NoetherError):
    """The tracker cannot be reached, or did not do what it was asked to."""


class TrackerRefusedError(TrackerError):
    """The tracker will say the same again (wrong credentials, a deleted experiment); do not ask again."""
