"""From what a user calls a run to its folder."""

from __future__ import annotations

import os
from pathlib import Path

from noether.checkpoint.paths import PathProvider
from noether.errors import UsageError
from noether.kernel.names import did_you_mean


def find_run(run: str | Path, output: str | Path = "runs") -> PathProvider:
    """Return the paths of a run that exists.

    Args:
        run: Its folder, or its id below `output`.
        output: The folder that holds one folder a run.

    Raises:
        UsageError: There is no such run.
    """
    for folder in (Path(run), Path(output) / run):
        if _is_run(folder):
            folder = folder.resolve()
            return PathProvider(folder.parent, folder.name)
    if os.path.isdir(run):  # noqa: PTH112  # does not raise, whatever the name
        raise UsageError(f"{run} is no run's folder: it has no run.json", hint="name a folder that `noether run` made")
    known = sorted(path.parent.name for path in Path(output).glob("*/run.json"))
    listed = f"it has {', '.join(known[-5:])}" if known else "it has none"
    raise UsageError(
        f"there is no run {str(run)!r}, neither as a folder nor in {output}.{did_you_mean(str(run), known)}",
        hint=f"{listed}; --output names another folder of runs",
    )


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "run.json").is_file()
    except (OSError, ValueError):  # a name that is too long, or no name at all
        return False
