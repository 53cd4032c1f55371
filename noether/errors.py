"""Every error that Noether raises on purpose, as one tree, with the exit code that each one means.

    NoetherError                1   the run failed; it can be resumed where a checkpoint exists
    ├── UsageError              2   wrong before training: spec, plugin, data or command line
    │   ├── SpecError           2   the spec, an override, or what they name together
    │   ├── PluginError         2   a kind, a plugin or a hook that does not fit
    │   └── DataError           2   a data file or data set that cannot be used
    ├── TrainingError           1   something in the loop: a callback, a model, a loss
    ├── StorageError            1   the disk is full or refuses
    ├── CheckpointError         3   no valid checkpoint where one is needed
    ├── NonFiniteError          4   losses or gradients stopped being numbers
    └── ExpectationError        1   the run ended well, but its metrics break the spec's `[expect]`

The command line prints `message` and `hint` of these and nothing else; any other exception is a defect and keeps its
traceback.
"""

from __future__ import annotations

from typing import ClassVar


class NoetherError(Exception):
    """Something that the user can understand and act upon.

    Args:
        message: What was found, what was expected, and where.
        hint: What to type or change; shown on a line of its own.
        code: A stable name of the problem, if it has one: `not-trusted`. See docs/reference/errors.md.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}\n  help: {self.hint}" if self.hint else self.message


class UsageError(NoetherError):
    """What the user asked for cannot be done; nothing was trained."""

    exit_code = 2


class SpecError(UsageError):
    """The spec, an override, or what they name together, is wrong."""


class PluginError(UsageError):
    """A kind, a plugin or a hook implementation does not fit."""


class DataError(UsageError):
    """A data file or data set cannot be used."""


class TrainingError(NoetherError):
    """The training loop met something that it cannot go on with."""


class StorageError(NoetherError):
    """The disk is full, read-only or broken; what was committed before stays valid."""


class CheckpointError(NoetherError):
    """No valid checkpoint where one is needed."""

    exit_code = 3


class NonFiniteError(NoetherError):
    """Losses or gradients stopped being numbers, and the run gave up."""

    exit_code = 4


class ExpectationError(NoetherError):
    """The run ended, but a final metric breaks the spec's `[expect]` table."""
