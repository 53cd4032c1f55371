"""Upload: bring the mirror of a run up to date, in a process of its own.

Libraries for stores draw from Python's global random generator, for the pauses between attempts and to shuffle
connections. It belongs to training, and is a part of its checkpoints; so they are not called in the run's process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from noether.checkpoint.durable import replace_file
from noether.checkpoint.manifest import MAX_BYTES, NAME, FileRecord, Manifest
from noether.checkpoint.paths import PathProvider, checkpoint_folders, checkpoint_name, update_of
from noether.checkpoint.retention import FOLDER as PINS
from noether.checkpoint.retention import Retention
from noether.checkpoint.untrusted import is_folder, names_inside, open_inside, read_record, read_untrusted
from noether.config.secrets import mask
from noether.errors import CheckpointError, error_text
from noether.metrics.results import RESULTS_INDEX, Result
from noether.metrics.spool import read_spool
from noether.runs.folder.run_folder import RUN
from noether.runs.mirror.store import PIECE, Entry, Store

RECORD = "mirror.json"
"""File of the run folder with the tokens of its attempts, by which a mirror is recognised as that of this run."""
_TOKENS = 100
_LARGEST = 32 << 20  # bytes of a file beside a checkpoint that does not grow
_Source: TypeAlias = Callable[[], Iterator[bytes]]
_Piece: TypeAlias = tuple[FileRecord, _Source]


class MirrorLostError(Exception):
    """Another run, or another attempt at this run, uploads to the mirror now."""


class _VanishedError(Exception):
    """Retention has removed or cut the checkpoint before its files were opened."""


def own_tokens(run: Path) -> list[str]:
    """Return the tokens of the attempts that were made in a run folder, or in the one that it was fetched from."""
    tokens = read_record(run, RECORD).get("tokens")
    return [token for token in tokens if isinstance(token, str)] if isinstance(tokens, list) else []


def record_of(tokens: list[str]) -> bytes:
    """Return the content of `mirror.json`."""
    return (json.dumps({"format": 1, "tokens": tokens[-_TOKENS:]}) + "\n").encode()


class Upload:
    """Bring the mirror of one run up to date, without threads.

    The run folder is the only buffer: it is compared with the mirror, and what is missing is uploaded, the newest
    resumable checkpoint first. A checkpoint that retention removes locally meanwhile is uploaded to its end, because
    its files are open by then. Every method may be called again after it raised.

    Args:
        store: The mirror.
        paths: Paths of the run.
        accepted: Token of an owner that this run takes over from, beside those in its folder.
        say: Called with a warning about a checkpoint that cannot be uploaded.
        token: Token of this attempt.

    Attributes:
        retention: The checkpoints to keep.
        on_uploaded: Called after each checkpoint.
    """

    def __init__(
        self, store: Store, paths: PathProvider, accepted: str | None, say: Callable[[str], object], token: str
    ) -> None:
        self.store, self.paths = store, paths
        self.retention = Retention()
        self.on_uploaded: Callable[[], object] = bool
        self.accepted, self._say, self._token = accepted, say, token
        self._is_owner = False
        self._entries: dict[int, Entry] | None = None  # of the mirror; None until they are read
        self._noted: set[str] = set()

    @property
    def there(self) -> list[int]:
        """The updates of the checkpoints that the mirror is known to have."""
        return sorted(self._entries or {})

    def _note(self, message: str) -> None:
        if message not in self._noted:
            self._noted.add(message)
            self._say(message)

    def synchronise(self) -> None:
        """Upload the checkpoints that the mirror lacks, and remove those that nothing keeps."""
        self._take_ownership()
        entries = self._known_entries()
        tried: set[int] = set()
        while (folder := self._next_to_upload(entries, tried)) is not None:
            tried.add(update_of(folder))
            try:
                self._upload(folder, entries)
                self.on_uploaded()
            except _VanishedError:
                continue
            except (CheckpointError, ValueError) as error:
                self._note(f"{folder.name} is not uploaded: {error}")
        self._prune(entries)

    def _take_ownership(self) -> None:
        """Check that the mirror is this attempt's; become its owner if it belongs to nobody, or to this run.

        Raises:
            MirrorLostError: if it belongs to another run, or another attempt has begun since.
        """
        owner, own = self.store.owner(), own_tokens(self.paths.run_path)
        if owner == self._token:
            return
        if self._is_owner or (owner is not None and owner not in (*own, self.accepted)):
            reason = "another attempt at the run" if self._is_owner else "another run of this id"
            raise MirrorLostError(f"{self.store.address} belongs to {reason} now")
        replace_file(self.paths.run_path / RECORD, record_of([*own, self._token]), inside=self.paths.run_path)
        self.store.claim(self._token)
        self._is_owner = True

    def _known_entries(self) -> dict[int, Entry]:
        """Return the sound entries of the mirror; they are read once, because only this attempt writes them."""
        if self._entries is None:
            entries = {}
            for update in self.store.updates():
                try:
                    entries[update] = self.store.entry(update)
                except CheckpointError as error:
                    self._note(error.message)
            self._entries = entries
        return self._entries

    def _next_to_upload(self, entries: Mapping[int, Entry], tried: set[int]) -> Path | None:
        """Return the newest checkpoint that the mirror lacks, resumable ones first; None if it has all."""
        newest_partial: Path | None = None
        for folder in reversed(checkpoint_folders(self.paths.checkpoint_path)):
            update = update_of(folder)
            if update in tried:
                continue
            try:
                text = self._manifest_of(folder)
                if update in entries and entries[update].text == text:
                    continue
                if Manifest.decode(text).resumable:
                    return folder
            except _VanishedError:
                continue
            except (CheckpointError, ValueError) as error:
                self._note(f"{folder.name} is not uploaded: {error}")
                continue
            newest_partial = newest_partial or folder
        return newest_partial

    def _manifest_of(self, folder: Path) -> bytes:
        try:
            return read_untrusted(self.paths.run_path, folder / NAME, limit=MAX_BYTES)
        except FileNotFoundError as error:
            raise _VanishedError from error

    def _upload(self, folder: Path, entries: dict[int, Entry]) -> None:
        """Upload one checkpoint: its files, then the files beside it, then its entry.

        Raises:
            ValueError: if a file of it is not what was saved.
        """
        with ExitStack() as stack:
            text = self._manifest_of(folder)
            manifest = Manifest.decode(text)
            sources: dict[FileRecord, _Source] = {}
            for name, record in manifest.files.items():
                sources[record] = partial(_chunks, self._open(stack, folder / name, folder), 0, record.size)
            files: dict[str, tuple[FileRecord, ...]] = {}
            for path, pieces in self._files_beside(manifest):
                files[path.relative_to(self.paths.run_path).as_posix()] = tuple(record for record, _ in pieces)
                for record, source in pieces:
                    sources.setdefault(record, source)
            self._upload_blobs(sources)
        self._take_ownership()
        entry = Entry(text, manifest, files)
        self.store.write_entry(entry)
        entries[manifest.update] = entry

    def _open(self, stack: ExitStack, path: Path, checkpoint: Path) -> int:
        try:
            descriptor = open_inside(self.paths.run_path, path)
        except FileNotFoundError as error:
            if not is_folder(checkpoint):
                raise _VanishedError from error
            raise ValueError(f"{path} is missing") from error
        stack.callback(os.close, descriptor)
        return descriptor

    def _files_beside(self, manifest: Manifest) -> Iterator[tuple[Path, list[_Piece]]]:
        """Yield the files of the run folder that a resume needs beside a checkpoint, with their pieces in order.

        Raises:
            ValueError: if one of them is damaged.
        """
        run, attempts, spool = self.paths.run_path, self.paths.attempts_path, self.paths.spool_path
        pins = self.paths.checkpoint_path / PINS
        small = [path for path in (run / RUN, self.paths.spec_path, self.paths.resolved_spec_path) if path.exists()]
        small += [attempts / name for name in names_inside(run, attempts) if name.endswith((".json", ".toml"))]
        small += [spool / name for name in names_inside(run, spool) if name.endswith(".json")]
        small += [pins / name for name in names_inside(run, pins) if update_of(Path(name)) >= 0]
        for path in small:
            if path.parent == spool and (path.name.endswith(".run.json") or not _is_elsewhere(path)):
                continue
            data = read_untrusted(run, path, limit=_LARGEST)  # at once: it may be replaced during the upload
            yield path, [(FileRecord.of(data), partial(iter, [data]))] if data else []
        for name, written in manifest.logs.items():
            if written.size:
                yield run / name, list(self._pieces(run / name, written.size))
            if name == RESULTS_INDEX:
                for result in self._results(run / name, written.size):
                    record = FileRecord(result.size, result.sha256)
                    yield run / result.file, [(record, partial(self._read, run / result.file, 0, result.size))]

    def _pieces(self, path: Path, size: int) -> Iterator[_Piece]:
        """Yield the pieces of the first bytes of a file that grows."""
        start = 0
        for data in self._read(path, 0, size):
            yield FileRecord.of(data), partial(self._read, path, start, len(data))
            start += len(data)

    def _read(self, path: Path, offset: int, size: int) -> Iterator[bytes]:
        descriptor = open_inside(self.paths.run_path, path)
        try:
            yield from _chunks(descriptor, offset, size)
        finally:
            os.close(descriptor)

    def _results(self, index: Path, size: int) -> Iterator[Result]:
        """Yield the results that the first bytes of `results.jsonl` list."""
        with os.fdopen(open_inside(self.paths.run_path, index), "rb") as lines:
            while lines.tell() < size and (line := lines.readline()):
                yield Result.decode(line)

    def _upload_blobs(self, sources: Mapping[FileRecord, _Source]) -> None:
        """Upload the blobs that the mirror lacks, and look whether it has all of them then.

        Raises:
            OSError: if it does not.
        """
        there = self.store.blobs()
        for record, source in sources.items():
            if there.get(record.sha256) != record.size:
                self.store.write_blob(record, source())
        there = self.store.blobs()
        if lost := [record.sha256 for record in sources if there.get(record.sha256) != record.size]:
            raise OSError(f"{len(lost)} files that were uploaded are not there: {lost[0]}")

    def _prune(self, entries: dict[int, Entry]) -> None:
        """Remove the checkpoints that nothing keeps, and the blobs that no checkpoint needs.

        Checkpoints that were not fetched from the mirror are judged by the rules of local retention. Those after the
        newest local one belong to a training that was given up: the run continues from an older checkpoint.
        """
        local = {update_of(folder) for folder in checkpoint_folders(self.paths.checkpoint_path)}
        if not local or not local & entries.keys():
            return
        kept = _kept(entries, self.retention, self.paths.checkpoint_path, local)
        stale = [update for update in self.store.updates() if update not in kept]
        needed = {sha256 for update in kept for sha256 in entries[update].blobs}
        waste = [sha256 for sha256 in self.store.blobs() if sha256 not in needed]
        if stale or waste:
            self._take_ownership()
        for update in stale:
            self.store.remove_entry(update)
            entries.pop(update, None)
        for sha256 in waste:
            self.store.remove_blob(sha256)


def _is_elsewhere(spool: Path) -> bool:
    """Return False for the position of a tracker whose store is a file of this machine: another one has its own."""
    store = read_spool(spool).reference.get("store", "")
    return not store or (not store.startswith("file:") and "://" in store and not store.startswith("sqlite"))


def _kept(entries: Mapping[int, Entry], retention: Retention, checkpoints: Path, local: set[int]) -> set[int]:
    """Return the updates of the entries to keep."""
    present = [update for update in sorted(entries) if update <= max(local)]
    resumable = [update for update in present if entries[update].manifest.resumable]
    finite = [update for update in resumable if entries[update].manifest.finite]
    named = {name.update for name in entries[present[-1]].manifest.names.values()}
    most = max(retention.keep_last, 1)
    kept = {*present[-most:], *resumable[-most:], *finite[-1:]} | (local & entries.keys())
    return kept | {one for one in present if retention.is_kept(checkpoints / checkpoint_name(one), named)}


def _chunks(descriptor: int, offset: int, size: int) -> Iterator[bytes]:
    """Yield the bytes of an open file from an offset on, all chunks but the last of the size of a piece."""
    end = offset + size
    while offset < end and (data := os.pread(descriptor, min(PIECE, end - offset), offset)):
        yield data
        offset += len(data)


# The process; it reads a line of JSON for each request, and writes lines until the one with "done", "lost" or "error"

_LOOK_EVERY_S = 0.5


def main() -> None:
    """Answer requests until the run closes the pipe or dies."""
    import resource  # POSIX only

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # sent to all processes of a terminal or a job
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # all files of a checkpoint are open during its upload
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(given["pid"],), daemon=True).start()
    paths = PathProvider(given["output"], given["run_id"])
    store = Store(given["address"], given["run_id"])
    upload = Upload(store, paths, None, lambda text: _tell(note=mask(text)), given["token"])
    upload.on_uploaded = lambda: _tell(there=upload.there)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "owner":
                _tell(done=store.owner())
            else:
                upload.accepted, upload.retention = request["accepted"], Retention(*request["retention"])
                upload.synchronise()
                _tell(there=upload.there)
                _tell(done=True)
        except MirrorLostError as error:
            _tell(lost=str(error))
        except Exception as error:
            _tell(error=" ".join(mask(error_text(error)).split())[:400])
    os._exit(0)  # threads of the libraries


def _end_with(parent: int) -> None:
    """End with the run: its other children may keep the pipe open."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(0)


def _tell(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
