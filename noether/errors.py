"""Errors that Noether raises on purpose, as one tree, with their exit codes.

    NoetherError                1   the run failed; it can be resumed where a checkpoint exists
    ├── UsageError              2   wrong before training: spec, plugin, data or command line
    │   ├── SpecError           2   the spec, an override, or what they name together
    │   ├── PluginError         2   a kind, a plugin or a hook that does not fit
    │   └── DataError           2   a data file or data set that cannot be used
    ├── TrainingError           1   something in the loop: a callback, a model, a loss
    ├── StorageError            1   the disk is full or refuses
    ├── CheckpointError         3   a checkpoint that is missing or damaged
    ├── NonFiniteError          4   losses or gradients stopped being numbers
    └── ExpectationError        1   the run ended well, but its metrics break the spec's `[expect]`

The command line prints `message` and `hint` of these and nothing else; any other exception is a defect and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


def text_of(error: BaseException) -> str:
    """Return the text of an exception; its class may be anyone's, and `__str__` may fail."""
    try:
        return str(error)
    except Exception as failure:
        return f"<its __str__ raised {type(failure).__name__}>"


def error_text(error: BaseException) -> str:
    """Return class and text of an exception, the class alone if it has no text: `KeyError: 'x'`, `SystemExit`."""
    return f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")


def notes_of(error: BaseException) -> list[str]:
    """Return the notes of an exception."""
    return list(getattr(error, "__notes__", ()))


class NoetherError(Exception):
    """An error that the user can understand and act upon.

    Args:
        message: The problem, with the found and the expected value, and its place.
        hint: The remedy; shown on a line of its own.
        code: Stable name of the problem, if it has one: `not-trusted`. See docs/reference/errors.md.

    Attributes:
        is_reported: True if another rank of the run prints it.
        path: Keys and indices of its place in the spec; empty if it is not known.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.is_reported = False
        self.path: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return f"{self.message}\n  help: {self.hint}" if self.hint else self.message


@contextmanager
def placed(*path: str | int) -> Iterator[None]:
    """Put a path in the spec before that of errors raised in the block, unless theirs begins with it."""
    try:
        yield
    except NoetherError as error:
        if error.path[: len(path)] != path:
            error.path = (*path, *error.path)
        raise


class UsageError(NoetherError):
    """The request cannot be carried out; nothing was trained."""

    exit_code = 2


class SpecError(UsageError):
    """The spec, an override, or what they name together, is wrong."""


class PluginError(UsageError):
    """A kind, a plugin or a hook implementation does not fit."""


class DataError(UsageError):
    """A data file or data set cannot be used."""


class TrainingError(NoetherError):
    """The training loop cannot continue: a callback, a model or a loss failed."""


class StorageError(NoetherError):
    """The disk is full, read-only or broken; what was committed before stays valid."""


class CheckpointError(NoetherError):
    """A checkpoint is missing or damaged, or does not fit."""

    exit_code = 3


class NonFiniteError(NoetherError):
    """Too many updates in a row were non-finite."""

    exit_code = 4


class ExpectationError(NoetherError):
    """The run ended, but a final metric breaks the spec's `[expect]` table."""
