"""The page of errors and exit codes, read off the tree in `noether.errors`."""

from __future__ import annotations

from collections.abc import Iterator

from noether import errors
from reference_pages.markdown import summary, table

_INTRODUCTION = """
# Errors and exit codes

A Noether error says what was found and what was expected, in a `note:` which callback it came from and at which
update, and on the line `help:` what to type. Any other exception ends a run as well, with exit code 1; the whole
traceback is in the run's `log.txt`, and `--traceback` prints it.

## Exit codes

| code | means |
| --- | --- |
| 0 | done |
| 1 | the run failed, or its final metrics break `[expect]` |
| 2 | wrong before training: spec, plugin, data or command line |
| 3 | no valid checkpoint where one is needed |
| 4 | losses or gradients stopped being finite |
| 130 | stopped by Ctrl-C (SIGINT) |
| 143 | stopped by SIGTERM, after committing a checkpoint |

## Errors

All are in `noether.errors`.
"""


def page() -> str:
    """Return the page."""
    rows = [
        (f"`{error.__name__}`", f"`{error.__base__.__name__}`", str(error.exit_code), summary(error))
        for error in _tree(errors.NoetherError)
        if error.__module__ == errors.__name__
    ]
    return f"{_INTRODUCTION.strip()}\n\n{table(('error', 'is a', 'exit code', 'means'), rows)}"


def _tree(error: type[errors.NoetherError]) -> Iterator[type[errors.NoetherError]]:
    yield error
    for derived in error.__subclasses__():
        yield from _tree(derived)
