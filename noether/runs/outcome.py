"""Outcome: how a run ended, with its metrics and the text of its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from noether.config.secrets import mask
from noether.errors import NoetherError


def describe(error: BaseException) -> str:
    """Return what an error says, with the notes that name the callback it came from, and without secrets."""
    text = error.message if isinstance(error, NoetherError) else f"{type(error).__name__}: {error}"
    notes = getattr(error, "__notes__", [])
    return mask("\n".join([text, *notes]))


Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: FINISHED where it came to its end by itself, FAILED where an error ended it, KILLED by a signal.
        run_dir: The run's folder.
        metrics: The last value of every metric.
        error: What ended it, where it did not finish or broke an expectation.
        exit_code: What the command line returns.
    """

    status: Status
    run_dir: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: BaseException | None = None
    exit_code: int = 0
