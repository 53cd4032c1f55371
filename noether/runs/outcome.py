"""Outcome: how a run ended, with its metrics and the text of its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from noether.config.secrets import withheld
from noether.errors import NoetherError, error_text, notes_of


def describe(error: BaseException) -> str:
    """Return the text of an error with its notes, which name the callback, and without secrets."""
    text = error.message if isinstance(error, NoetherError) else error_text(error)
    return withheld("\n".join([text, *notes_of(error)]))


_MACHINERY = ("optim/", "stability/", "data/", "model/", "profiling/")


def summary_place(key: str) -> int:
    """Return the place of a metric in the summary: best values, evaluations, training losses, sizes and timings."""
    if key.startswith(_MACHINERY):
        return 3
    if key.startswith("best=") or "/best" in key or "/at_best/" in key:
        return 0
    return 2 if key.startswith("loss/online/") else 1


Status = Literal["FINISHED", "FAILED", "KILLED"]
EXIT_CODE = 128
"""Exit code of a run that a signal ended, before the number of the signal is added: a shell reports it as 128 + n."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of a run.

    Attributes:
        status: FINISHED if it came to its end by itself, FAILED if an error ended it, KILLED if a signal did.
        run_dir: The run folder.
        metrics: The last value of every metric key.
        error: The exception that ended the run, or a broken expectation; None if there was none.
        exit_code: Exit code of the command line.
    """

    status: Status
    run_dir: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: BaseException | None = None
    exit_code: int = 0


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a run, which is closed; raised, so that a loop over runs ends as well.

    Attributes:
        outcome: The end of the run.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"Ctrl-C ended {outcome.run_dir}")
        self.outcome = outcome
