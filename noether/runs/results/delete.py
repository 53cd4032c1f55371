"""Delete a run: its folder, and its run at the user's own tracker."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noether.checkpoint.durable import remove_tree, storage_error, tree_size
from noether.checkpoint.manifest import SPEC
from noether.checkpoint.paths import PathProvider, shown_path
from noether.checkpoint.untrusted import is_file_inside, is_folder, names_inside
from noether.config.secrets import mask, remember_password_in
from noether.errors import NoetherError, UsageError
from noether.kernel.registry import use_registry
from noether.metrics.spool import read_spool
from noether.metrics.tracker import BaseTracker, RunDescription
from noether.runs.folder.lock import NAME as LOCK
from noether.runs.folder.lock import RunLock, holder_of, in_use
from noether.runs.folder.run_folder import RUN, find_run
from noether.runs.mirror.upload import RECORD as MIRROR
from noether.runs.saved_spec import read_saved_spec
from noether.runs.tracking.tracking import OwnTrackers, sync_registry
from noether.spec.read.layering import is_project_root

_WRITTEN = frozenset(
    f"{LOCK} {RUN} {MIRROR} spec.toml {SPEC} metrics.jsonl results.jsonl results log.txt attempts "
    "checkpoints spool outputs evaluations abandoned damaged trace.json report.html".split()
)
"""Names in a run folder that Noether writes; others are named before they are removed."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What deleting a run removes.

    Attributes:
        paths: Paths of the run.
        files: Number of files in its folder.
        size: Their bytes.
        others: Names in the folder that Noether does not write.
        trackers: Trackers that were opened for the run.
        mirror: Address of its mirror, without a password, or words for one that is not known; None if it has none.
            A mirror stays: only the folder names it, and a folder may come from a stranger.
    """

    paths: PathProvider
    files: int
    size: int
    others: tuple[str, ...]
    trackers: tuple[str, ...]
    mirror: str | None = None


def deletion_of(run: str, output: Path) -> Deletion:
    """Return what deleting a run removes; removes nothing.

    Args:
        run: Folder of the run, or its id below `output`.
        output: Folder that holds the runs.

    Raises:
        UsageError: if it is no run, is reached by a link, goes on, or is more than a run.
        StorageError: if the folder cannot be read.
    """
    paths = find_run(run, output, of_any_version=True)
    folder = paths.run_path
    given = next((path for path in (Path(run), output / run) if path.is_symlink()), None)
    if given is not None:
        raise UsageError(
            f"{given} is a link to {folder}, and links are not followed",
            hint=f"remove the link itself, or name the folder: noether runs delete {shlex.quote(str(folder))}",
        )
    if is_project_root(folder) or Path.cwd().is_relative_to(folder):
        raise UsageError(
            f"{shown_path(folder)} is more than a run: found the root of a project, or the working folder",
            hint=f"stand elsewhere; if {RUN} in it is no run's, remove that file",
        )
    if (holder := holder_of(folder)) is not None:
        raise in_use(folder, holder)
    try:
        files, size = tree_size(folder)
        others = tuple(name for name in names_inside(folder) if name not in _WRITTEN)
        inner = next((run for name in others for run in _runs_in(folder / name)), None)
    except OSError as error:
        raise storage_error(error, folder) from error
    if inner is not None:
        raise UsageError(
            f"{shown_path(folder)} is more than a run: found the run {shown_path(inner)} in it",
            hint=f"delete that one first, or move it: noether runs delete {shlex.quote(str(shown_path(inner)))}",
        )
    return Deletion(paths, files, size, others, tuple(name for name, _ in _opened(paths)), _mirror_of(paths))


def _runs_in(folder: Path) -> Iterator[Path]:
    """Yield the runs in a folder and below it, without following links."""
    names = names_inside(folder) if is_folder(folder) else ()
    if RUN in names:
        yield folder
    for name in names:
        yield from _runs_in(folder / name)


def _mirror_of(paths: PathProvider) -> str | None:
    address: Any = None
    with suppress(NoetherError):
        table = read_saved_spec(paths).tables.get("checkpoints")
        address = table.get("mirror") if isinstance(table, dict) else None
    if isinstance(address, str):
        remember_password_in(address)
        return mask(f"{address.rstrip('/')}/{paths.run_id}")
    if address is None and not is_file_inside(paths.run_path, MIRROR):
        return None
    return f"the run {paths.run_id}, at an address that the folder does not name"


def _opened(paths: PathProvider) -> Iterator[tuple[str, RunDescription]]:
    """Yield the trackers that were opened for a run, and the run as its folder describes it to them."""
    names = names_inside(paths.run_path, paths.spool_path) if is_folder(paths.spool_path) else ()
    for name in (name.removesuffix(".json") for name in names if name.endswith(".json")):
        state = read_spool(paths.spool_path / f"{name}.json")
        if state.token:  # else nothing was sent: the token is kept before
            described = RunDescription(
                paths.run_id, paths.run_id, paths.run_path, reference=state.reference, token=state.token
            )
            yield name, described


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Result of one tracker.

    Attributes:
        tracker: Its name.
        where: Address of its store, without a password; empty if it has none.
        removed: True if the run was removed there, False if there was none, None if the tracker removes no runs.
    """

    tracker: str
    where: str
    removed: bool | None


class TrackerLeftError(NoetherError):
    """A run could not be removed at a tracker; its folder is still there."""


def forget(paths: PathProvider, *, trusted: Iterable[str] = ()) -> Iterator[Forgotten]:
    """Remove a run at the user's own trackers; see `OwnTrackers` for the stores.

    Args:
        paths: Paths of the run.
        trusted: Packages that dotted kinds may import beside the usual ones.

    Raises:
        TrackerLeftError: if a tracker cannot be reached, or is not the user's own.
    """
    opened = dict(_opened(paths))
    if not opened:
        return
    with use_registry(sync_registry(paths, tuple(trusted))):
        try:
            trackers = dict(OwnTrackers(paths, None).build())
        except NoetherError as error:
            raise _left(", ".join(opened), error) from error
        for name, run in opened.items():
            yield _forget(trackers.get(name), name, run)


def _forget(tracker: BaseTracker | None, name: str, run: RunDescription) -> Forgotten:
    if tracker is None:  # the spec has lost it
        return Forgotten(name, "", None)
    try:
        removed = tracker.forget(run)
    except Exception as error:  # a tracker is a plugin
        raise _left(name, error) from error
    return Forgotten(name, tracker.address or "", removed)


def _left(name: str, error: Exception) -> TrackerLeftError:
    reason = error.message if isinstance(error, NoetherError) else f"{type(error).__name__}: {error}"
    return TrackerLeftError(
        f"the run may still be at the tracker {name}, and its folder was not deleted: {reason}",
        hint="try again later, or delete the folder alone with --keep-tracker",
    )


def delete_folder(paths: PathProvider) -> None:
    """Remove the folder of a run; the file that marks it as a run goes last, so that this can be called again.

    Raises:
        UsageError: if a process works on the run.
        StorageError: if the disk refuses.
    """
    folder = paths.run_path
    with RunLock(folder):
        try:
            for name in sorted(names_inside(folder), key=lambda name: (name in (RUN, LOCK), name != RUN)):
                remove_tree(folder / name)
            remove_tree(folder)
        except OSError as error:
            raise storage_error(error, folder) from error
