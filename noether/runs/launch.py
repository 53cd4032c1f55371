"""`noether.run`: from a spec to an outcome."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.untrusted import require_posix
from noether.errors import UsageError
from noether.kernel.compile import HookWatch, active_watch, print_call, watch_hooks
from noether.runs.console import kept_for_console
from noether.runs.execution import Execution
from noether.runs.folder.run_folder import checked_run_id, new_run_id
from noether.runs.mirror.fetch import open_mirror
from noether.runs.outcome import EXIT_CODE, Outcome, RunInterrupted
from noether.runs.prepare import Preparation, preparation
from noether.runs.ranks import follow, on_all_ranks, require_name, require_one_folder
from noether.spec.load import LoadedSpec, load_spec
from noether.training.parallel import RankLostError, joined, parallel_of

if TYPE_CHECKING:
    from noether.runs.measure.profile import Profile


def run(
    spec: str | Path | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    resume: str | None = None,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    plugins: Iterable[str] = (),
    trust: Iterable[str] = (),
    allow_spec_change: bool = False,
    strict_code: bool = False,
    project: Path | None = None,
    quiet: bool = False,
    trace_hooks: bool = False,
    profile: bool = False,
) -> Outcome:
    """Train a spec in this process.

    Args:
        spec: A TOML file, or a dict of the same tables.
        set: Overrides with Python values by dotted path.
        run_id: Name of the run folder; a new one by default.
        resume: Action if that run exists. Unset, it is an error. `auto` starts it or continues it, whatever happened
            to it before; `none` moves it aside and starts anew; the name of a checkpoint continues from there.
        overrides: Overrides as on the command line, `path=value` or `path+=value`.
        unset: Paths to remove from the spec before those.
        plugins: Run plugins beside those that the spec uses.
        trust: Packages that dotted kinds may import beside the usual ones. A dict, and `set`, may also name code of the
            package that calls this (`__main__` for a script), and hold classes and functions in place of kinds.
        allow_spec_change: Continue although changes of the spec alter training.
        strict_code: Refuse to continue if code of the project, a plugin or a data file has changed since the checkpoint
            was saved; by default the run warns.
        project: Project folder with the code that the spec names; by default that of the spec.
        quiet: Print warnings and errors only.
        trace_hooks: Print each call of a hook to stderr: hook, callback or run plugin, update, milliseconds.
        profile: Log the costs of an update and of each callback at the end, and write `trace.json` to the run folder.

    Returns:
        The outcome; its `error` holds an exception that was raised once training had begun.

    Raises:
        UsageError: if the spec or a component is wrong, or the run is in use; nothing was trained.
        CheckpointError: if there is no valid checkpoint to continue from.
        RunInterrupted: a `KeyboardInterrupt`, if Ctrl-C ended the run; it is closed, and its outcome is recorded.
    """
    if resume is not None and run_id is None:
        raise UsageError(
            "missing run id: found a resume without one, expected the id of the run to continue", hint="add --run-id ID"
        )
    plugins = list(plugins)
    with joined() as parallel:
        load = partial(load_spec, spec, overrides, set, unset=unset, trust=trust, plugins=plugins, project=project)
        loaded = on_all_ranks(parallel, load)
        watch = HookWatch(trace=print_call) if trace_hooks and parallel.is_writer else active_watch()
        options: dict[str, Any] = {}
        if profile and parallel.is_writer:
            options["profile"] = profiled = _profile()
            watch = replace(profiled.watch, trace=None if watch is None else watch.trace)
        with watch_hooks(watch):
            return start(
                loaded,
                run_id,
                plugins,
                resume=resume,
                allow_spec_change=allow_spec_change,
                strict_code=strict_code,
                quiet=quiet,
                **options,
            )


def _profile() -> Profile:
    from noether.runs.measure.profile import Profile  # imports torch's profiler

    return Profile()


def start(loaded: LoadedSpec, run_id: str | None, plugins: Iterable[str] = (), **options: Any) -> Outcome:
    """Train a spec that is loaded already; see `run` for the arguments.

    Args:
        loaded: A valid spec.
        run_id: Name of the run folder; None for a new one.
        plugins: Run plugins beside those that the spec uses.
        **options: Further arguments of `Execution`.

    Raises:
        RunInterrupted: if Ctrl-C ended the run.
    """
    watch = active_watch()
    if loaded.spec.trainer.hook_timeout_s is not None:  # otherwise hooks pay nothing
        watch = replace(watch or HookWatch(), counts=True)
    parallel = parallel_of()
    with preparation(loaded, plugins) as prepared, watch_hooks(watch):
        spec = prepared.loaded.spec
        require_name(parallel, run_id)
        run_id = new_run_id(spec.name) if run_id is None else checked_run_id(run_id, spec.output)
        run_id, resume = parallel.share((run_id, options.pop("resume", None)))
        if parallel.attempt:
            resume = "auto"  # the ranks were started again: the run of before goes on, whatever the command says
        paths = PathProvider(spec.output, run_id)
        require_posix(paths.run_path)
        require_one_folder(parallel, paths)
        if parallel.is_writer:
            outcome = _execute(prepared, paths, resume=resume, **options)
        else:
            outcome = follow(prepared, paths, parallel)
        if outcome.error is not None:
            parallel.report(outcome.error)
        else:  # all ranks end together: a launcher takes the first end for that of all
            with suppress(RankLostError):
                parallel.share(None)
    if outcome.exit_code == EXIT_CODE + signal.SIGINT:
        raise RunInterrupted(outcome) from outcome.error
    return outcome


def _execute(prepared: Preparation, paths: PathProvider, *, resume: str | None, **options: Any) -> Outcome:
    """Make one attempt at a run, with its mirror if it has one."""
    table = prepared.loaded.spec.checkpoints
    if table.mirror is None:
        return Execution(prepared, paths, resume=resume, **options).run()
    with kept_for_console() as said:
        mirror = open_mirror(table.mirror, table.mirror_timeout_s, paths, resume)
    mirror.said = said
    try:
        return Execution(prepared, paths, mirror=mirror, resume=resume, **options).run()
    finally:
        mirror.abandon()
