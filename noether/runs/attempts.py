"""The records of the attempts at a run: when each began, from which checkpoint, and how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process that worked on a run.

    Attributes:
        number: From 1.
        record: What it wrote; its `status` is RUNNING where it was killed before it could say more.
    """

    number: int
    record: dict[str, Any]

    @property
    def status(self) -> str:
        """How it ended: FINISHED, FAILED, KILLED; RUNNING where it did not say."""
        return str(self.record.get("status", "RUNNING"))


def record_path(attempts: Path, number: int) -> Path:
    """Return where the record of an attempt is."""
    return attempts / f"{number:04d}.json"


def last_attempt(attempts: Path) -> Attempt | None:
    """Return the newest attempt at a run, None where there was none; a record that cannot be read counts as one."""
    numbers = [int(path.stem) for path in attempts.glob("*.json") if path.stem.isdecimal()]
    if not numbers:
        return None
    number = max(numbers)
    try:
        record = json.loads(record_path(attempts, number).read_bytes())
    except (OSError, ValueError, RecursionError):
        record = {}
    return Attempt(number, record if isinstance(record, dict) else {})
