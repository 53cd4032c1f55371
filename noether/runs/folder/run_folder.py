"""The run folder: ids of runs, finding a run by name, and the records that a run keeps of itself."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from noether.checkpoint.durable import make_folder, make_folders, replace_file, storage_error
from noether.checkpoint.paths import PathProvider, checkpoint_folders, sweep_temporary_files, update_of
from noether.checkpoint.untrusted import NotPlainError, is_file_inside, names_inside, read_record
from noether.errors import UsageError
from noether.kernel.names import did_you_mean
from noether.kernel.trust import RUN_MARK
from noether.runs.folder.lock import NAME as LOCK
from noether.runs.folder.lock import holder_of, in_use
from noether.spec.errors.words import visible

RUN = RUN_MARK
FORMAT = 1
"""Version of the form of `run.json`."""
_SHOWN = 80  # characters of a recorded fact in a message
SAMPLES = "samples"
"""Key in `run.json` of the properties of the first training sample before its transforms."""
EVALUATIONS = "evaluations"
"""Folder of a run in which `noether eval` keeps a folder for each checkpoint."""
CALLBACKS = "callbacks"
"""Key in the record of an attempt of the calls and seconds of each callback in rounds with an evaluation."""
_LAST_TIME = 1 << 36  # seconds since 1970, in the year 4147
_RECORD = re.compile(r"([0-9]{4,9})\.json")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


# Names of runs


def new_run_id(name: str) -> str:
    """Return `<name>-<UTC date>-<time>-<4 hex>`; two runs of one second differ in the last part."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def checked_run_id(run_id: str, output: str | Path) -> str:
    """Return a run id that a user gave, which becomes the name of a folder; a run that was renamed keeps its new name.

    Args:
        run_id: The id.
        output: Folder that holds one folder a run.

    Raises:
        UsageError: if it is not a plain name.
    """
    is_name = run_id == Path(run_id).name != ".." and run_id.isprintable()
    is_renamed = is_name and _is_run(Path(output) / run_id)
    if not is_renamed and not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"wrong run id: found {run_id!r}, expected the name of a folder",
            hint="use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128 of them",
        )
    return run_id


def find_run(
    run: str | Path, output: str | Path = "runs", *, without_record: bool = False, of_any_version: bool = False
) -> PathProvider:
    """Return the paths of a run that exists.

    Args:
        run: Folder of the run, or its id below `output`.
        output: Folder that holds one folder a run.
        without_record: Take a folder with checkpoints although its `run.json` is missing; repair it before anything
            else is read, because that file marks the folder as one that holds data and no code.
        of_any_version: Take a run of another version, to show or to remove it.

    Raises:
        UsageError: if there is no such run, or another version of Noether wrote it.
    """
    for given in (Path(run), Path(output) / run):
        if _is_run(given) or (without_record and _has_checkpoints(given)):
            folder = given.resolve()
            if not of_any_version:
                require_version(folder)
            return PathProvider(folder.parent, folder.name)
    if os.path.isdir(run):  # noqa: PTH112  # does not raise, whatever the name
        raise UsageError(
            f"wrong run folder: found {run}, expected a folder with {RUN}", hint="name a folder that `noether run` made"
        )
    if Path(run).suffix == ".toml" and os.path.isfile(run):  # noqa: PTH113  # does not raise, whatever the name
        raise UsageError(
            f"wrong run: found the spec {run}, expected a run folder or the id of a run in {output}",
            hint=f"`noether runs list` shows the runs; a new one is made by: noether run {run}",
        )
    known = sorted(path.parent.name for path in Path(output).glob(f"*/{RUN}"))
    listed = f"it has {', '.join(known[-5:])}" if known else "it has none"
    raise UsageError(
        f"unknown run: found {str(run)!r}, expected a run folder or the id of a run in "
        f"{output}.{did_you_mean(str(run), known)}",
        hint=f"{listed}; --output names another folder of runs",
    )


def read_run(run: Path) -> dict[str, Any]:
    """Return the content of `run.json`; an empty one if it cannot be read, or is not what was written."""
    record = read_record(run, RUN)
    found = record.pop(_HASH, None)  # older versions wrote none
    return record if found in (None, _hash(record)) else {}


def other_version(run: Path) -> str | None:
    """Return the format of a run that this version of Noether does not know, and who wrote it; None if it does."""
    record = read_run(run)
    if not record or record.get("format") == FORMAT:
        return None
    environment = record.get("environment")
    by = environment.get("noether", "?") if isinstance(environment, dict) else "?"
    known = f"format {record.get('format')} of {RUN} by Noether {by}"
    return visible(known)[:_SHOWN]


def require_version(run: Path) -> None:
    """Refuse to go on with a run of another version.

    Raises:
        UsageError: if another version of Noether wrote it.
    """
    if (found := other_version(run)) is not None:
        raise UsageError(
            f"the run {run} is of another version: found {found}, expected {FORMAT}",
            hint="use the version of Noether that wrote it; `noether runs show` reads what it can",
        )


_HASH = "sha256"


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _is_run(folder: Path) -> bool:
    try:
        return is_file_inside(folder, RUN)
    except (OSError, ValueError):  # such as a name that is too long
        return False


def _has_checkpoints(folder: Path) -> bool:
    try:
        return bool(checkpoint_folders(folder / "checkpoints"))
    except (OSError, ValueError):
        return False


# Records of attempts


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process that worked on a run.

    Attributes:
        number: Number of the attempt, from 1.
        record: Content of its record; `status` stays RUNNING if the process was killed.
    """

    number: int
    record: dict[str, Any]

    @property
    def status(self) -> str:
        """FINISHED, FAILED or KILLED; RUNNING if the attempt has not recorded its end."""
        status = self.record.get("status")
        return status if status in ("FINISHED", "FAILED", "KILLED") else "RUNNING"

    def time_of(self, event: str) -> float | None:
        """Return the time at which the attempt has `started` or `ended`; None if the record does not say."""
        value: Any = self.record.get(event)
        return float(value) if type(value) in (int, float) and 0 <= value < _LAST_TIME else None

    @property
    def continued_from(self) -> str | None:
        """The update from which it resumed, in words; None if it began the run."""
        name = self.record.get("resumed_from")
        return f"update {update_of(Path(name)):,}" if isinstance(name, str) else None


def record_path(attempts: Path, number: int) -> Path:
    """Return the file with the record of an attempt."""
    return attempts / f"{number:04d}.json"


def last_attempt(attempts: Path) -> Attempt | None:
    """Return the newest attempt at a run, None if there was none; an unreadable record counts as one."""
    return next(recent_attempts(attempts), None)


_RECENT = 20


def recent_attempts(attempts: Path, most: int | None = _RECENT) -> Iterator[Attempt]:
    """Yield the newest attempts at a run, the last one first; an unreadable record is empty.

    Args:
        attempts: Folder of their records.
        most: Number of attempts at most; None for all.

    Raises:
        StorageError: if the folder of the records is a link, or not a folder.
    """
    try:
        names = names_inside(attempts.parent, attempts)
    except NotPlainError as error:
        raise storage_error(error, attempts) from error
    numbers = [int(match[1]) for match in map(_RECORD.fullmatch, names) if match is not None]
    for number in sorted(numbers, reverse=True)[:most]:
        yield Attempt(number, read_record(attempts.parent, record_path(attempts, number)))


# The environment, on which the exact bytes of a run depend beside its spec


def environment() -> dict[str, str]:
    """Return the versions and the machine of this process."""
    import torch

    return {
        "noether": version("noether-train"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def environment_changes(recorded: Mapping[str, Any]) -> list[str]:
    """Return a line for each recorded fact that differs in this process: `torch 2.12 → 2.13`."""
    now = environment()
    return [
        f"{fact} {visible(str(recorded[fact])[:_SHOWN])} → {value}"
        for fact, value in now.items()
        if fact in recorded and str(recorded[fact]) != value
    ]


class RunFolder:
    """The folder of one run: create it or continue in it, and keep its records.

    Args:
        paths: Paths of the run.

    Attributes:
        attempt: Number of the attempt that this process makes.
    """

    def __init__(self, paths: PathProvider) -> None:
        self.paths = paths
        self.attempt = 1
        self._record: dict[str, Any] = {}

    @property
    def exists(self) -> bool:
        """True if a run of this id was begun before."""
        return self.paths.run_path.is_dir()

    @property
    def former_spec_path(self) -> Path:
        """File for the resolved spec of the attempt before, if this attempt replaces it."""
        return self.paths.attempts_path / f"{self.attempt - 1:04d}.resolved.toml"

    def create(self) -> None:
        """Make the folder, or take one in which a killed process began nothing; two runs never share one.

        Raises:
            UsageError: if a run of this id exists, or another process begins it.
            StorageError: if the disk refuses.
        """
        try:
            make_folders(self.paths.output_path)
            make_folder(self.paths.run_path)
        except FileExistsError as error:
            if not self.paths.output_path.is_dir():
                raise UsageError(
                    f"{self.paths.output_path} is a file, expected a folder for runs", hint="let `output` name a folder"
                ) from error
            if (holder := holder_of(self.paths.run_path)) is not None:
                raise in_use(self.paths.run_path, holder) from error
            self.require_new()
        except OSError as error:
            raise storage_error(error, self.paths.run_path) from error

    def require_new(self) -> None:
        """Check that nothing was written to the folder: a process may have come first, and ended since.

        Raises:
            UsageError: if the run has begun.
        """
        path = self.paths.run_path
        if not path.is_dir():
            raise UsageError(
                f"{path} is not a folder: found a file, or a link to nothing",
                hint="remove it, or choose another --run-id",
            )
        sweep_temporary_files(path)
        if not set(names_inside(path)) <= {LOCK}:  # of a process that was killed
            raise UsageError(
                f"{path} exists already",
                hint="continue it with --resume auto, choose another --run-id, or leave it out for a new one",
            )

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Write `run.json` once: the facts of a run that never change, its versions and machine, and their hash."""
        path = self.paths.run_path / RUN
        record = read_run(self.paths.run_path)
        if path.exists() and (not record or record.keys() >= facts.keys()):
            return
        body = {
            "format": FORMAT,
            "run_id": self.paths.run_id,
            "created": time.time(),
            "environment": environment(),
            **facts,
            **record,
        }
        self._write_json(path, body | {_HASH: _hash(body)})

    def recorded_environment(self) -> dict[str, Any]:
        """Return the versions and the machine with which the run began; empty if they cannot be read."""
        found = read_run(self.paths.run_path).get("environment")
        return found if isinstance(found, dict) else {}

    def begin_attempt(self, **facts: Any) -> None:
        """Record that a process has begun to work on the run.

        Args:
            **facts: Further facts, such as the checkpoint that the attempt resumes from.
        """
        last = last_attempt(self.paths.attempts_path)
        self.attempt = 1 if last is None else last.number + 1
        now = {"started": time.time(), "pid": os.getpid(), "host": socket.gethostname(), "status": "RUNNING"}
        self._record = now | facts
        try:
            make_folders(self.paths.attempts_path, inside=self.paths.run_path)
        except OSError as error:
            raise storage_error(error, self.paths.attempts_path) from error
        self._write_attempt()

    def end_attempt(self, status: str, reason: str | None, **facts: Any) -> None:
        """Record the status of the attempt, the reason if it did not reach its limit, and further facts."""
        self._record |= {"ended": time.time(), "status": status, "reason": reason} | facts
        self._write_attempt()

    def _write_attempt(self) -> None:
        self._write_json(record_path(self.paths.attempts_path, self.attempt), self._record)

    def _write_json(self, path: Path, body: Mapping[str, Any]) -> None:
        replace_file(path, (json.dumps(body, indent=1) + "\n").encode(), inside=self.paths.run_path)
