"""The page of errors, exit codes and codes of problems, from `noether.errors` and the registry of codes."""

from __future__ import annotations

from collections.abc import Iterator

from noether import errors
from noether.spec.errors.problem import CODES
from reference_pages.markdown import summary, table

_INTRODUCTION = """
# Errors and exit codes

A Noether error has a message (found and expected), a `note:` with the callback and the update that it came from, and
a line `help:` with what to type. Any other exception ends a run as well, with exit code 1; the whole traceback is in
the run's `log.txt`, and `--traceback` prints it.

## Exit codes

| code | means |
| --- | --- |
| 0 | done |
| 1 | the run failed, or its final metrics break `[expect]` |
| 2 | wrong before training: spec, plugin, data or command line |
| 3 | no valid checkpoint where one is needed |
| 4 | losses or gradients stopped being finite |
| 130 | stopped by Ctrl-C (SIGINT) |
| 129 | stopped by SIGHUP, when its terminal was closed, after committing a checkpoint |
| 143 | stopped by SIGTERM, after committing a checkpoint |

## Errors

All are in `noether.errors`.
"""

_CODES = """
## Problems of a spec

Each problem of a spec has a code. The text output begins with it, `noether check --format json` has it as `code`, and
`--format github` as the title of the annotation. Messages may change between versions, codes stay.

```text
error[unknown-key]: unknown key "hiden". Did you mean 'hidden'?
  --> specs/experiment.toml:17:1   [model.hiden]
   |
17 | hiden = [256]
   | ^^^^^
```
"""


def page() -> str:
    """Return the page."""
    rows = [
        (f"`{error.__name__}`", f"`{error.__base__.__name__}`", str(error.exit_code), summary(error))
        for error in _tree(errors.NoetherError)
        if error.__module__ == errors.__name__
    ]
    codes = [(f"`{name}`", code.meaning, _in_code(code.example)) for name, code in CODES.items()]
    return "\n\n".join(
        [
            _INTRODUCTION.strip(),
            table(("error", "is a", "exit code", "means"), rows).strip(),
            _CODES.strip(),
            table(("code", "means", "example"), codes),
        ]
    )


def _in_code(example: str) -> str:
    return " ".join(f"`{line}`" for line in example.splitlines())


def _tree(error: type[errors.NoetherError]) -> Iterator[type[errors.NoetherError]]:
    yield error
    for derived in error.__subclasses__():
        yield from _tree(derived)
