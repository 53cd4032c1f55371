"""Outcome: the end of a run, with its metrics, its error and its exit code; and the bounds of `[expect]` on them."""

from __future__ import annotations

import logging
import math
import os
import shlex
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from noether.config.secrets import withheld
from noether.errors import ExpectationError, NoetherError, error_text, notes_of
from noether.kernel.names import did_you_mean
from noether.spec.metric_checks import BEST
from noether.spec.model import Expectation

if TYPE_CHECKING:
    from noether.checkpoint.paths import PathProvider


_LOG = logging.getLogger("noether.run")


def describe(error: BaseException) -> str:
    """Return the text of an error with its notes, which name the callback, and without secrets."""
    text = error.message if isinstance(error, NoetherError) else error_text(error)
    return withheld("\n".join([text, *notes_of(error)]))


Status = Literal["FINISHED", "FAILED", "KILLED"]
EXIT_CODE = 128
"""Exit code of a run that a signal ended, before the number of the signal is added: a shell reports it as 128 + n."""
ENDED_WITH = "NOETHER_ENDED_WITH"
"""Names a file for the exit code of a run after which ranks shall not start again; their launcher then sees a 0."""
_RESTARTS = "TORCHELASTIC_MAX_RESTARTS"
FINAL = frozenset({2, 3, 4, EXIT_CODE + signal.SIGINT, EXIT_CODE + signal.SIGTERM, EXIT_CODE + 1})  # 1: SIGHUP
"""Exit codes after which another start would end as this one did, or was not wanted."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of a run.

    Attributes:
        status: FINISHED if it came to its end by itself, FAILED if an error ended it, KILLED if a signal did.
        run_dir: The run folder.
        metrics: The last value of every metric key.
        error: The exception that ended the run, or a broken expectation; None if there was none.
        exit_code: Exit code of the command line.
        last_line: The line with which the run ended its output.
    """

    status: Status
    run_dir: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: BaseException | None = None
    exit_code: int = 0
    last_line: str = ""

    def _repr_html_(self) -> str:
        """Return the run as a notebook shows it: its end, evaluation metrics, curves and settings."""
        from noether.checkpoint.paths import PathProvider
        from noether.runs.results.report.notebook import html_of_run

        error = None if self.error is None else describe(self.error)
        return html_of_run(PathProvider(self.run_dir.parent, self.run_dir.name), status=self.status, error=error)


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a run, which is closed; raised, so that a loop over runs ends as well.

    Attributes:
        outcome: The end of the run.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"Ctrl-C ended {outcome.run_dir}")
        self.outcome = outcome


def say_how_to_continue(paths: PathProvider, update: int, outcome: Outcome) -> None:
    """Log the command that continues a run, the checkpoint that is kept, and the updates that are lost.

    Args:
        paths: Paths of the run.
        update: Completed updates.
        outcome: Its end.
    """
    from noether.checkpoint.paths import shown_path
    from noether.checkpoint.saved import CheckpointNames  # imports torch

    saved = CheckpointNames(paths.checkpoint_path).newest_resumable()
    lost = update - (saved.update if saved is not None else 0)
    lost_text = f"{lost} update{'s are' if lost > 1 else ' is'} lost" if lost > 0 else "no update is lost"
    command = f"noether resume {shlex.quote(str(shown_path(paths.run_path)))}"
    if saved is not None:
        _LOG.info("kept: %s; %s; continue with: %s", saved.iteration, lost_text, command)
        return
    if lost <= 0:
        return
    on_ctrl_c = "; save_on_sigint = true under [trainer] commits one on Ctrl-C"
    way_out = on_ctrl_c if outcome.exit_code == EXIT_CODE + signal.SIGINT else ""
    _LOG.info("no checkpoint to continue from was committed%s; %s; begin again with: %s", way_out, lost_text, command)


def exit_code(code: int) -> int:
    """Return the exit code that the launcher of this process shall see for a run that ended with `code`.

    A launcher that restarts ranks takes every other code than 0 for a failure; one that is final is hidden from it.
    """
    if code not in FINAL:
        return code
    if ended := os.environ.get(ENDED_WITH):
        with suppress(FileExistsError), Path(ended).open("x", encoding="ascii") as file:
            file.write(str(code))
        return 0
    restarts = os.environ.get(_RESTARTS, "0")
    return 0 if code > EXIT_CODE and restarts.isdecimal() and int(restarts) else code


IS_BROKEN = "training finished, but [expect] failed: "
"""Beginning of the message of a broken expectation."""


def broken_expectations(
    expected: Mapping[str, Expectation], final: Mapping[str, float], best: Mapping[str, float] | None = None
) -> list[str]:
    """Return a sentence for each expectation that the metrics do not meet.

    Args:
        expected: Bounds by metric key; `best/<key>` is the best value of the metric `<key>`.
        final: The last value of each metric.
        best: The best finite value of each metric whose direction is known.
    """
    sentences = (_broken(key, bounds, final, best or {}) for key, bounds in expected.items())
    return [sentence for sentence in sentences if sentence is not None]


def check_expectations(
    expected: Mapping[str, Expectation], final: Mapping[str, float], best: Mapping[str, float] | None = None
) -> None:
    """Compare the metrics of a run with `[expect]`; see `broken_expectations`.

    Raises:
        ExpectationError: if a bound is broken; the message names every value and bound.
    """
    broken = broken_expectations(expected, final, best)
    if broken:
        raise ExpectationError(IS_BROKEN + "; ".join(broken))


def _broken(key: str, bounds: Expectation, final: Mapping[str, float], best: Mapping[str, float]) -> str | None:
    metric = key.removeprefix(BEST)
    if key in final:  # a metric of exactly this name, whatever it begins with
        return _outside(key, final[key], bounds)
    if metric not in final:
        return f"{metric} was never logged, expected {_words(bounds)}.{did_you_mean(metric, final)}"
    if metric not in best:
        return f"{metric} has no best value, as it was never finite or has no direction; expected {_words(bounds)}"
    return _outside(f"the best {metric}", best[metric], bounds)


def _outside(name: str, value: float, bounds: Expectation) -> str | None:
    if math.isnan(value):
        return f"{name} = nan, expected {_words(bounds)}"
    if bounds.min is not None and value < bounds.min:
        return f"{name} = {value:.6g}, expected at least {bounds.min:g}"
    if bounds.max is not None and value > bounds.max:
        return f"{name} = {value:.6g}, expected at most {bounds.max:g}"
    if bounds.equals is not None and abs(value - bounds.equals) > (bounds.tolerance or 0.0):
        return f"{name} = {value:.6g}, expected {bounds.equals:g} within {bounds.tolerance or 0.0:g}"
    return None


def _words(bounds: Expectation) -> str:
    """Return bounds in the words of the messages."""
    words = [] if bounds.min is None else [f"at least {bounds.min:g}"]
    words += [] if bounds.max is None else [f"at most {bounds.max:g}"]
    words += [] if bounds.equals is None else [f"{bounds.equals:g} within {bounds.tolerance or 0.0:g}"]
    return " and ".join(words)
