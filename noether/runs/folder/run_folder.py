"""The run folder: ids of runs, finding a run by name, and the records that a run keeps of itself."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from noether.checkpoint.durable import make_folder, make_folders, replace_file, storage_error
from noether.checkpoint.paths import PathProvider
from noether.errors import UsageError
from noether.kernel.names import did_you_mean

RUN = "run.json"
SAMPLES = "samples"
"""Key in `run.json` of the properties of the first training sample before its transforms."""
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


def find_run(run: str | Path, output: str | Path = "runs") -> PathProvider:
    """Return the paths of a run that exists.

    Args:
        run: Folder of the run, or its id below `output`.
        output: Folder that holds one folder a run.

    Raises:
        UsageError: if there is no such run.
    """
    for folder in (Path(run), Path(output) / run):
        if _is_run(folder):
            folder = folder.resolve()
            return PathProvider(folder.parent, folder.name)
    if os.path.isdir(run):  # noqa: PTH112  # does not raise, whatever the name
        raise UsageError(
            f"wrong run folder: found {run}, expected a folder with {RUN}", hint="name a folder that `noether run` made"
        )
    known = sorted(path.parent.name for path in Path(output).glob(f"*/{RUN}"))
    listed = f"it has {', '.join(known[-5:])}" if known else "it has none"
    raise UsageError(
        f"unknown run: found {str(run)!r}, expected a run folder or the id of a run in "
        f"{output}.{did_you_mean(str(run), known)}",
        hint=f"{listed}; --output names another folder of runs",
    )


def _is_run(folder: Path) -> bool:
    try:
        return (folder / RUN).is_file()
    except (OSError, ValueError):  # such as a name that is too long
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
        return str(self.record.get("status", "RUNNING"))


def record_path(attempts: Path, number: int) -> Path:
    """Return the file with the record of an attempt."""
    return attempts / f"{number:04d}.json"


def last_attempt(attempts: Path) -> Attempt | None:
    """Return the newest attempt at a run, None if there was none; an unreadable record counts as one."""
    numbers = [int(path.stem) for path in attempts.glob("*.json") if path.stem.isdecimal()]
    if not numbers:
        return None
    number = max(numbers)
    try:
        record = json.loads(record_path(attempts, number).read_bytes())
    except (OSError, ValueError, RecursionError):
        record = {}
    return Attempt(number, record if isinstance(record, dict) else {})


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
        f"{fact} {recorded[fact]} → {value}"
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
        """Make the folder; two runs never share one.

        Raises:
            UsageError: if a run of this id exists.
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
            raise UsageError(
                f"{error.filename} exists already",
                hint="continue it with --resume auto, choose another --run-id, or leave it out for a new one",
            ) from error
        except OSError as error:
            raise storage_error(error, self.paths.run_path) from error

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Write `run.json` once: the facts of a run that never change, with its versions and machine."""
        if (self.paths.run_path / RUN).exists():
            return
        body = {
            "format": 1,
            "run_id": self.paths.run_id,
            "created": time.time(),
            "environment": environment(),
            **facts,
        }
        _write_json(self.paths.run_path / RUN, body)

    def recorded_environment(self) -> dict[str, Any]:
        """Return the versions and the machine with which the run began; empty if they cannot be read."""
        try:
            found = json.loads((self.paths.run_path / RUN).read_bytes())["environment"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
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
            make_folders(self.paths.attempts_path)
        except OSError as error:
            raise storage_error(error, self.paths.attempts_path) from error
        self._write_attempt()

    def end_attempt(self, status: str, reason: str | None) -> None:
        """Record the status of the attempt, and the reason if it did not reach its limit."""
        self._record |= {"ended": time.time(), "status": status, "reason": reason}
        self._write_attempt()

    def _write_attempt(self) -> None:
        _write_json(record_path(self.paths.attempts_path, self.attempt), self._record)


def _write_json(path: Path, body: Mapping[str, Any]) -> None:
    replace_file(path, (json.dumps(body, indent=1) + "\n").encode())
