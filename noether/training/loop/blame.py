"""Says of which checkpoint a state is that nobody can take back."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from noether.errors import CheckpointError, DataError, NoetherError


@contextmanager
def blamed_on(step: Path) -> Iterator[None]:
    """Turn what is raised while the state of a step is restored into an error that names the step.

    A state that was saved by other code, or written by a stranger, passes every hash and is still of the wrong shape.

    Raises:
        CheckpointError: Something was raised; the message has its type, text and place, and its notes are kept.
    """
    try:
        yield
    except (CheckpointError, DataError) as error:
        if step.name in error.message:
            raise
        raise CheckpointError(f"the state in {step} cannot be restored: {error.message}", hint=error.hint) from error
    except NoetherError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        told = CheckpointError(
            f"the state in {step} cannot be restored: {type(error).__name__}: {str(error)[:_SHOWN]} "
            f"({frame.filename}:{frame.lineno})",
            hint="is it of this run, and of the code that is installed now? --traceback shows where it failed",
        )
        for note in getattr(error, "__notes__", []):
            told.add_note(note)
        raise told from error


_SHOWN = 400  # characters of what a message quotes
