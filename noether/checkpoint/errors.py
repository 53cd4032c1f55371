"""Errors of the writers that say more than one place can."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from noether.errors import CheckpointError, StorageError, TrainingError
from noether.kernel.names import did_you_mean


class MissingMetricError(TrainingError, KeyError):
    """A metric was asked for that nobody logged in this round.

    Args:
        key: The key asked for.
        present: The keys that were logged.
    """

    def __init__(self, key: str, present: Iterable[str]) -> None:
        present = sorted(present)
        listed = ", ".join(repr(name) for name in present) or "none"
        super().__init__(
            f"no metric {key!r} was logged in this round.{did_you_mean(key, present)} Logged: {listed}",
            hint="the callback that logs it has to come earlier in the spec and to fire in the same round",
        )


class NewerFormatError(CheckpointError):
    """A sound checkpoint that a newer version of Noether has written; it is never passed over for an older one.

    Args:
        found: Its format.
        known: The newest format that this version reads.
        written_by: The version of Noether that wrote it; empty where it does not say.
        where: What it is.
    """

    def __init__(self, found: int, known: int, written_by: str, where: str = "the checkpoint") -> None:
        self.facts = (found, known, written_by)
        writer = f"noether-train {written_by}" if written_by else "a newer noether-train"
        super().__init__(
            f"{where} has format {found}, written by {writer}; this version reads format {known}",
            hint=f"install noether-train{f'>={written_by}' if written_by else ' in a newer version'}",
        )


class FolderGoneError(StorageError):
    """The folder of a run's checkpoints was removed or renamed while the run trained.

    Args:
        path: Where it was.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"cannot save: {path} is gone; it was removed or renamed while the run trained",
            hint="put it back and resume, or start a new run",
        )
