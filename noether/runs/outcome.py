"""Outcome: how a run ended, and with which metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
