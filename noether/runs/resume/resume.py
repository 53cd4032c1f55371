"""`noether resume`: continue a run with the spec in its folder, or preview that."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from noether.checkpoint.paths import PathProvider
from noether.checkpoint.untrusted import is_folder
from noether.errors import SpecError, UsageError
from noether.kernel.participant import load_plugins
from noether.kernel.registry import use_registry
from noether.runs.console import kept_for_console
from noether.runs.folder.lock import is_locked
from noether.runs.folder.run_folder import RUN, RunFolder, environment_changes, find_run, last_attempt
from noether.runs.launch import start
from noether.runs.mirror.fetch import fetch_run
from noether.runs.outcome import Outcome
from noether.runs.ranks import on_all_ranks
from noether.runs.resume.changes import another_value, refused_changes, shown
from noether.runs.resume.continuation import AUTO, SavedState, damages, find_state, lost_updates, repair_run
from noether.runs.resume.facts import VALUE, changed_facts, code_changes, facts_of
from noether.runs.saved_spec import load_saved_spec, noting_missing_code, read_saved_spec
from noether.spec.errors.words import visible
from noether.spec.model import resolved_tables
from noether.spec.overlay import differences
from noether.training.compiled import missing_compiler
from noether.training.forms import COMPILED
from noether.training.parallel import joined


def resume(
    run: str | Path,
    *,
    checkpoint: str = AUTO,
    output: str | Path = "runs",
    set: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    unset: Sequence[str] = (),
    plugins: Iterable[str] = (),
    trusted: Iterable[str] = (),
    project: Path | None = None,
    **options: Any,
) -> Outcome:
    """Continue a run with the spec in its folder.

    Args:
        run: Folder of the run, or its id below `output`.
        checkpoint: Name of a checkpoint; `auto` for the newest sound one.
        output: Folder that holds the runs.
        set: See `noether.run`, as for all that follow.
        overrides: See there.
        unset: See there.
        plugins: See there.
        trusted: See there.
        project: Project folder with the code that the spec names; by default the project of the working folder.
        **options: Further arguments of `noether.run`.

    Raises:
        UsageError: if there is no such run, it is in use, or changes of the spec alter training.
        CheckpointError: if there is no such checkpoint, or none that is sound.
    """
    plugins = list(plugins)
    with joined() as parallel:
        found = _found(run, output, {*(set or {}), *unset, *map(_path_of, overrides)}) if parallel.is_writer else None
        found = parallel.share(found)  # the others read what was fetched and repaired
        assert found is not None, "the writer has found it"
        paths, changes, repairs = found
        changes |= {**(set or {}), "output": str(paths.output_path)}
        layers = {"overrides": overrides, "set": changes, "unset": unset, "trusted": trusted, "plugins": plugins}
        loaded = on_all_ranks(parallel, partial(load_saved_spec, paths, project=project, **layers))
        with noting_missing_code(paths, project):
            return start(loaded, paths.run_id, plugins, resume=checkpoint, repairs=repairs, **options)


def _found(
    run: str | Path, output: str | Path, given: Collection[str]
) -> tuple[PathProvider, dict[str, Any], list[str]]:
    """Find a run, or fetch it from its mirror, and repair its files.

    Args:
        run: As in `resume`.
        output: As in `resume`.
        given: Paths in the spec that the caller sets or removes.

    Returns:
        Its paths, values to set in its spec, and lines on what was done.
    """
    changes: dict[str, Any] = {}
    said: list[str] = []
    if "://" in str(run):
        with kept_for_console() as records:
            paths, changes["checkpoints.mirror"] = fetch_run(str(run), output)
        said = [record.getMessage() for record in records if record.levelno > logging.INFO]
    else:
        paths = find_run(run, output, without_record=True)
        if not {"checkpoints", "checkpoints.mirror"} & {*given}:
            _require_own_mirror(paths)
    return paths, changes, said + repair_run(paths)


def _path_of(override: str) -> str:
    """Return the path of a value that an override sets or removes."""
    return override.partition("=")[0].removesuffix("+").strip()


def _require_own_mirror(paths: PathProvider) -> None:
    """Refuse to upload to an address that only the run folder names: it may come from a stranger.

    Raises:
        UsageError: if it names one.
    """
    try:
        table = read_saved_spec(paths).tables.get("checkpoints")
    except SpecError:  # reported when the spec is loaded
        return
    mirror = table.get("mirror") if isinstance(table, dict) else None
    if isinstance(mirror, str):
        raise UsageError(
            f"the run folder names a mirror, and a run folder may come from a stranger: found {visible(mirror)!r}",
            hint=f"to upload there: -s {shlex.quote(f'checkpoints.mirror={visible(mirror)}')}; "
            "to go on without: --unset checkpoints.mirror",
        )


def preview(
    run: str | Path,
    *,
    checkpoint: str = AUTO,
    output: str | Path = "runs",
    overrides: Sequence[str] = (),
    plugins: Iterable[str] = (),
    trusted: Iterable[str] = (),
    project: Path | None = None,
) -> list[str]:
    """Return lines that describe the continuation of a run; change nothing.

    Args:
        run: As in `resume`, as for all that follow.
        checkpoint: See `resume`.
        output: See `resume`.
        overrides: See `noether.run`.
        plugins: See `noether.run`.
        trusted: See `noether.run`.
        project: See `resume`.

    Raises:
        UsageError: if there is no such run.
        CheckpointError: if there is no such checkpoint, or none that is sound.
    """
    if "://" in str(run):
        raise UsageError(
            f"cannot preview {visible(str(run))}: the run would have to be fetched", hint="leave out --dry-run"
        )
    paths = find_run(run, output, without_record=True)
    saved = find_state(paths, checkpoint)
    damaged = {damage.path: damage for damage in damages(paths)}
    lines = [f"run         {paths.run_path}", *_attempts(paths), *_position(paths, saved, damaged)]
    lines += [f"damaged     {damage}" for damage in damaged.values()]
    if damaged.keys() & {paths.run_path / RUN, paths.resolved_spec_path}:
        return [*lines, "spec        compared once it is restored"]
    before = load_saved_spec(paths, project=project, trusted=trusted)
    now = load_saved_spec(paths, project=project, overrides=overrides, trusted=trusted, plugins=list(plugins))
    with use_registry(now.registry):
        tables = resolved_tables(before.spec), resolved_tables(now.spec)
    changes, refused = differences(*tables), refused_changes(*tables)
    lines += [f"spec        {line}" for line in shown(changes)] or ["spec        as it was"]
    if refused:
        lines.append("            these changes alter training and need --allow-spec-change: ")
        lines += [f"            {change.key}" for change in refused]
    if saved is not None:
        recorded = saved.checkpoint.manifest.facts
        facts = facts_of(now.spec, load_plugins(now.spec.plugins.use, now.registry), recorded)
        lines += [f"spec        {another_value(key)}" for key in changed_facts(recorded, facts, VALUE)]
        lines += [f"code        {line}" for line in code_changes(recorded, facts)]
    machine = environment_changes(RunFolder(paths).recorded_environment())
    return lines + ([f"machine     {line}" for line in machine] or ["machine     as it was"])


def _attempts(paths: PathProvider) -> list[str]:
    last = last_attempt(paths.attempts_path) if is_folder(paths.attempts_path) else None
    if is_locked(paths.run_path):
        return ["in use      by another process"]
    return [f"attempts    {last.number}, the last one ended as {last.status}"] if last else []


def _position(paths: PathProvider, saved: SavedState | None, damaged: Collection[Path]) -> list[str]:
    if saved is None:
        return ["begins      anew: it has no checkpoint yet"]
    if saved.state.trainer.get("ended"):
        return [f"continues   after {saved.checkpoint.manifest.iteration}, where it had ended"]
    position = [f"continues   after {saved.checkpoint.manifest.iteration}"]
    is_compiled = saved.state.trainer.get("form", {}).get("form") == COMPILED.name
    if is_compiled and (reason := missing_compiler()):
        position.append(f"refused     its updates are compiled, and {reason}")
    if paths.metrics_path in damaged:
        return position
    return [*position, f"again       {lost_updates(paths, saved.state.update)} updates are computed again"]
