"""`noether.run`: from a spec to an outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from noether.core.providers.path import PathProvider
from noether.errors import UsageError
from noether.kernel.registry import use_registry
from noether.runs.configured import configured
from noether.runs.execution import Execution
from noether.runs.outcome import Outcome
from noether.runs.process_state import process_state
from noether.runs.run_id import checked_run_id, new_run_id
from noether.spec.load import load_spec
from noether.training.parallel import parallel_of


def run(
    spec: str | Path | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    resume: str | None = None,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    plugins: Iterable[str] = (),
    trusted: Iterable[str] = (),
    allow_spec_change: bool = False,
    project: Path | None = None,
    quiet: bool = False,
) -> Outcome:
    """Train what a spec describes, in this process.

    Args:
        spec: A TOML file, or a dict of the same tables.
        set: Overrides with Python values by dotted path.
        run_id: Name of the run's folder; a new one by default.
        resume: What to do where that run exists. Unset, it is an error. `auto` starts it or continues it, whatever
            happened to it before; `none` moves it aside and starts anew; the name of a checkpoint continues from there.
        overrides: Overrides as on the command line, `path=value` or `path+=value`.
        unset: Paths to remove from the spec before those.
        plugins: Run plugins beside those that the spec uses.
        trusted: Packages that dotted kinds may import beside the usual ones.
        allow_spec_change: Continue although the spec changes what training computes.
        project: The folder of the code of one's own that the spec names; by default that of the spec.
        quiet: Print warnings and errors only.

    Returns:
        How the run ended. What goes wrong once training has begun is in the outcome's `error`.

    Raises:
        UsageError: The spec or what it names is wrong, or the run is in use; nothing was trained.
        CheckpointError: There is no checkpoint to continue from, or none that is sound.
    """
    parallel_of()
    if resume is not None and run_id is None:
        raise UsageError("resume needs the run that it is about", hint="give its --run-id")
    plugins = list(plugins)
    loaded = load_spec(spec, overrides, set, unset=unset, trusted=trusted, plugins=plugins, project=project)
    with use_registry(loaded.registry):
        participants = configured(loaded.spec, plugins)
        run_id = new_run_id(loaded.spec.name) if run_id is None else checked_run_id(run_id)
        paths = PathProvider(loaded.spec.output, run_id)
        with process_state(loaded.spec):
            execution = Execution(
                loaded, paths, participants, resume=resume, allow_spec_change=allow_spec_change, quiet=quiet
            )
            return execution.run()
