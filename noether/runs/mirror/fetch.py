"""Continue from a mirror: look at it before a run begins, and fetch the newest sound checkpoint to a bare machine.

A mirror is data, whoever made it: nothing in it is executed, names cannot lead out of the run folder, and no file gets
more bytes than its record says.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from noether.checkpoint.durable import (
    free_bytes,
    make_folders,
    remove,
    remove_tree,
    rename,
    size_text,
    storage_error,
    sync_folder,
    write_new_file,
)
from noether.checkpoint.manifest import NAME, FileRecord, NewerFormatError
from noether.checkpoint.paths import PathProvider, checkpoint_name, shown_path
from noether.config.secrets import mask, remember_password_in
from noether.data.randomness import preserved_rng
from noether.errors import CheckpointError, NoetherError, StorageError, UsageError, error_text
from noether.metrics.feed import pause_s
from noether.runs.folder.lock import RunLock
from noether.runs.folder.run_folder import checked_run_id
from noether.runs.mirror.feed import Mirror, UnansweredError
from noether.runs.mirror.store import Entry, Store
from noether.runs.mirror.upload import RECORD, own_tokens, record_of
from noether.runs.resume.continuation import AUTO, NONE, move_run_aside

_LOG = logging.getLogger("noether.mirror")
_PATIENCE_S, _SHORT_PATIENCE_S = 30.0, 10.0
"""Seconds to wait for a mirror that a run continues from, and for one that it can begin without."""
_ATTEMPTS = 3
_T = TypeVar("_T")


class UnreachableError(StorageError):
    """The mirror gives no answer."""


def open_mirror(address: str, timeout_s: float, paths: PathProvider, resume: str | None) -> Mirror:
    """Return the mirror of a run that is about to begin. Fetch the run if it continues and has no folder here.

    Args:
        address: `mirror` of the spec.
        timeout_s: `mirror_timeout_s` of the spec.
        paths: Paths of the run.
        resume: Action if the run exists; see `noether.run`.

    Raises:
        UsageError: if the address cannot be used, or the mirror holds another run of this id.
        StorageError: if the run is to continue from the mirror, and that gives no answer.
        CheckpointError: if it holds no sound checkpoint.
    """
    mirror = Mirror(address, paths, timeout_s)
    mirror.store.require_usable()
    is_needed = resume not in (None, NONE) and not paths.run_path.is_dir()
    try:
        mirror.accepted = mirror.owner(_PATIENCE_S if is_needed else _SHORT_PATIENCE_S)
        if mirror.accepted is not None:
            with preserved_rng():  # libraries for stores draw from it
                _settle(mirror.store, paths, mirror.accepted, resume)
    except UnansweredError as error:
        refusal = _unreachable(mirror.store, error)
        if is_needed:
            mirror.abandon()
            refusal.add_note("the run may have been begun on another machine, so it is not begun anew here")
            raise refusal from None
        _LOG.warning("%s. Training is not affected; it will be tried again", refusal.message)
    except BaseException:
        mirror.abandon()
        raise
    return mirror


def _settle(store: Store, paths: PathProvider, owner: str, resume: str | None) -> None:
    """Go on with a run that the mirror holds, here or after fetching it; refuse to begin another one of this id."""
    exists = paths.run_path.is_dir()
    if resume is None and exists:
        return  # refused in a moment, and not because of the mirror
    if resume in (None, NONE):
        raise UsageError(
            f"the mirror holds a run of this id: found {store.address}",
            hint="continue it with --resume auto, choose another --run-id, or leave it out for a new one",
        )
    if not exists:
        fetch(store, paths, owner, resume)
    elif owner not in own_tokens(paths.run_path):
        if resume != AUTO:
            place = shown_path(paths.run_path)
            raise UsageError(
                f"the run was continued on another machine: {store.address} does not belong to {place}",
                hint=f"move the folder away, then `noether resume {store.address}`; `noether run` with --resume auto "
                "does both",
            )
        _replace(store, paths, owner)


def fetch_run(address: str, output: str | Path) -> tuple[PathProvider, str]:
    """Fetch the run at `ADDRESS/RUN_ID`, which the user has named; return its paths and the address of the mirror.

    Raises:
        UsageError: if the address cannot be used, names no run, or a folder of this name exists.
        StorageError: if the mirror gives no answer.
        CheckpointError: if it holds no sound checkpoint.
    """
    if remember_password_in(address):
        raise UsageError(
            f"wrong run: found {mask(address)}, an address with a password, which other users of the machine can see",
            hint="give credentials through the environment or fsspec's own config",
        )
    mirror, _, run_id = address.rstrip("/").rpartition("/")
    paths = PathProvider(output, checked_run_id(run_id, output))
    if os.path.lexists(paths.run_path):
        raise UsageError(
            f"{shown_path(paths.run_path)} exists already, so the run is not fetched from {address}",
            hint=f"continue it with `noether resume {shown_path(paths.run_path)}`, or move it away",
        )
    store = Store(mirror, run_id)
    store.require_usable()
    with preserved_rng():
        owner = _ask(store, store.owner)
        found = owner is not None and fetch(store, paths, owner, AUTO)
    if not found:
        raise UsageError(
            f"unknown run: found no checkpoint to continue from at {store.address}",
            hint="name the run in its mirror: ADDRESS/RUN_ID",
        )
    return paths, mirror


def _replace(store: Store, paths: PathProvider, owner: str) -> None:
    """Move a run aside that was continued on another machine since, and fetch it."""
    with RunLock(paths.run_path):
        if next(_resumable_entries(store, {}), None) is None:
            return
        aside = move_run_aside(paths)
    _LOG.warning("the run was continued on another machine; what this one had was moved to %s", shown_path(aside))
    fetch(store, paths, owner, AUTO)


def _ask(store: Store, ask: Callable[[], _T]) -> _T:
    """Return the answer of a mirror.

    Raises:
        UnreachableError: if there is none.
    """
    try:
        return ask()
    except NoetherError:
        raise
    except Exception as error:
        raise _unreachable(store, error) from error


def _unreachable(store: Store, error: Exception) -> UnreachableError:
    text = str(error) if isinstance(error, UnansweredError) else mask(error_text(error))
    return UnreachableError(
        f"no answer from the mirror {store.address}: {' '.join(text.split())[:400]}",
        hint="start the command again when the store answers",
    )


def fetch(store: Store, paths: PathProvider, owner: str, resume: str | None) -> bool:
    """Fetch the newest sound checkpoint of a run, and those that have names; return False if it has none.

    The run folder appears at once, when it is complete.

    Args:
        store: The mirror.
        paths: Paths of the run; its folder does not exist.
        owner: Token of the attempt that uploaded last.
        resume: Name of another checkpoint to fetch as well.

    Raises:
        CheckpointError: if the mirror has checkpoints, and all are damaged.
        StorageError: if the mirror gives no answer any more, or the disk refuses.
    """
    temporary = paths.output_path / f".{paths.run_id}.fetched-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        make_folders(paths.output_path)
        entry = _fetch_newest(store, temporary, resume)
        if entry is None:
            return False
        write_new_file(temporary / RECORD, [record_of([owner])])
        sync_folder(temporary)
        rename(temporary, paths.run_path)
        sync_folder(paths.output_path)
    except OSError as error:
        raise storage_error(error, paths.run_path) from error
    finally:
        with suppress(OSError):
            remove_tree(temporary)
    _LOG.info("fetched %s of the run from %s", entry.manifest.iteration, store.address)
    return True


def _fetch_newest(store: Store, folder: Path, resume: str | None) -> Entry | None:
    """Fetch the newest checkpoint that is whole and sound; if none is, do without files beside it that are damaged."""
    damages: dict[str, None] = {}
    for needs_all in (True, False):
        for entry in _resumable_entries(store, damages):
            try:
                _fetch(store, entry, folder, damages, needs_all=needs_all)
            except CheckpointError as error:
                _note(error.message, damages)
                remove_tree(folder)
                continue
            _fetch_others(store, entry, folder, damages, resume)
            return entry
    if damages:
        raise CheckpointError(
            f"no valid checkpoint is left in {store.address}: {'; '.join(damages)}",
            hint="begin a new run with another --run-id",
        )
    return None


def _note(damage: str, damages: dict[str, None]) -> None:
    if damage not in damages:
        damages[damage] = None
        _LOG.warning("%s; trying without it", damage)


def _resumable_entries(store: Store, damages: dict[str, None]) -> Iterator[Entry]:
    """Yield the entries of whole checkpoints, newest first; damaged ones are noted."""
    for update in reversed(_ask(store, store.updates)):
        try:
            entry = _ask(store, partial(store.entry, update))
        except NewerFormatError:  # an older one would throw valid work away
            raise
        except CheckpointError as error:
            _note(error.message, damages)
            continue
        if entry.manifest.resumable:
            yield entry


def _fetch(store: Store, entry: Entry, run: Path, damages: dict[str, None], *, needs_all: bool) -> None:
    """Fetch a checkpoint and the files beside it into a new folder.

    Raises:
        CheckpointError: if a file of the checkpoint is damaged, or one beside it and all are needed.
        StorageError: if the disk has no room for it.
    """
    size, free = sum(record.size for record in entry.blobs.values()), free_bytes(run.parent)
    if free is not None and size > free:
        raise StorageError(
            f"no room for {entry.manifest.iteration} of {store.address}: found {size_text(free)} in {run.parent}, "
            f"expected {size_text(size)}",
            hint="free some space, or let `output` name a folder on another disk",
        )
    _fetch_checkpoint(store, entry, run)
    for name, pieces in entry.files.items():
        try:
            _download(store, entry, pieces, run / name, run)
        except CheckpointError as error:
            if needs_all:
                raise
            _note(f"{name}: {error.message}", damages)
            with suppress(FileNotFoundError):
                remove(run / name)


def _fetch_others(store: Store, entry: Entry, run: Path, damages: dict[str, None], resume: str | None) -> None:
    """Fetch the checkpoints that have names, and the one called `resume`, but none after the entry."""
    wanted = {named.update for named in entry.manifest.names.values()}
    for update in _ask(store, store.updates):
        if update >= entry.manifest.update or (resume == AUTO and update not in wanted):
            continue
        try:
            other = _ask(store, partial(store.entry, update))
            if update in wanted or resume in (other.manifest.iteration, checkpoint_name(update)):
                _fetch_checkpoint(store, other, run)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            _note(error.message, damages)
            with suppress(FileNotFoundError):
                remove_tree(run / "checkpoints" / checkpoint_name(update))


def _fetch_checkpoint(store: Store, entry: Entry, run: Path) -> None:
    folder = run / "checkpoints" / checkpoint_name(entry.manifest.update)
    for name, record in entry.manifest.files.items():
        _download(store, entry, [record], folder / name, run)
    make_folders(folder)  # a manifest may list no files
    write_new_file(folder / NAME, [entry.text])
    sync_folder(folder)


def _download(store: Store, entry: Entry, pieces: Iterable[FileRecord], path: Path, run: Path) -> None:
    """Write the bytes of a file, hashed as they arrive, and try again if the connection breaks.

    Raises:
        CheckpointError: if they are not those that were saved.
        UnreachableError: if the mirror gives no answer any more.
    """
    make_folders(path.parent)
    for attempt in range(_ATTEMPTS):
        try:
            write_new_file(path, _bytes_of(store, pieces))
        except UnreachableError:
            if attempt == _ATTEMPTS - 1:
                raise
            remove(path)
            time.sleep(pause_s(attempt + 1))
        except ValueError as error:
            where = f"{checkpoint_name(entry.manifest.update)} in {store.address}"
            raise CheckpointError(f"{where} is damaged: {path.relative_to(run).as_posix()}: {error}") from error
        else:
            return


def _bytes_of(store: Store, pieces: Iterable[FileRecord]) -> Iterator[bytes]:
    try:
        for piece in pieces:
            yield from store.read_blob(piece)
    except ValueError:  # damaged
        raise
    except Exception as error:
        raise _unreachable(store, error) from error
