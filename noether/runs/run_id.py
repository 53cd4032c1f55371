"""Names of runs."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from noether.errors import UsageError

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def new_run_id(name: str) -> str:
    """Return `<name>-<UTC date>-<time>-<4 hex>`; two runs of one second differ in the last part."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def checked_run_id(run_id: str) -> str:
    """Return a run id that a user gave, which becomes the name of a folder.

    Raises:
        UsageError: It is no plain name.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"run id {run_id!r} cannot be the name of a folder",
            hint="use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128 of them",
        )
    return run_id
