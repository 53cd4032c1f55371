"""The run folder: its id, its records, and finding one by name."""

from __future__ import annotations

import hashlib
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

from noether.core.providers.path import PathProvider
from noether.core.utils.nearest import did_you_mean
from noether.core.writers.durable import make_folder, make_folders, replace_file, storage_error
from noether.errors import UsageError


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
    """Return how this process differs from the one that a run began in, a line for each fact: `torch 2.12 → 2.13`."""
    now = environment()
    return [
        f"{fact} {recorded[fact]} → {value}"
        for fact, value in now.items()
        if fact in recorded and str(recorded[fact]) != value
    ]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process that worked on a run.

    Attributes:
        number: From 1.
        record: What it wrote; its `status` is RUNNING where it was killed before it could say more.
    """

    number: int
    record: dict[str, Any]

    @property
    def status(self) -> str:
        """How it ended: FINISHED, FAILED, KILLED; RUNNING where it did not say."""
        return str(self.record.get("status", "RUNNING"))


def record_path(attempts: Path, number: int) -> Path:
    """Return where the record of an attempt is."""
    return attempts / f"{number:04d}.json"


def last_attempt(attempts: Path) -> Attempt | None:
    """Return the newest attempt at a run, None where there was none; a record that cannot be read counts as one."""
    numbers = [int(path.stem) for path in attempts.glob("*.json") if path.stem.isdecimal()]
    if not numbers:
        return None
    number = max(numbers)
    try:
        record = json.loads(record_path(attempts, number).read_bytes())
    except (OSError, ValueError, RecursionError):
        record = {}
    return Attempt(number, record if isinstance(record, dict) else {})


_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def new_run_id(name: str) -> str:
    """Return `<name>-<UTC date>-<time>-<4 hex>`; two runs of one second differ in the last part."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def checked_run_id(run_id: str) -> str:
    """Return a run id that a user gave, which becomes the name of a folder.

    Raises:
        UsageError: It is no plain name.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"run id {run_id!r} cannot be the name of a folder",
            hint="use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128 of them",
        )
    return run_id


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


RUN = "run.json"


class RunFolder:
    """Creates the folder of one run, or goes on in it, and keeps its records.

    Args:
        paths: Where the run keeps its files.
    """

    def __init__(self, paths: PathProvider) -> None:
        self.paths = paths
        self.attempt = 1
        self._record: dict[str, Any] = {}

    @property
    def exists(self) -> bool:
        """Whether a run of this id was begun before."""
        return self.paths.run_path.is_dir()

    @property
    def spec_sha256(self) -> str:
        """Hash of the resolved spec of the last attempt, as manifests hold it; empty where there is none."""
        try:
            return hashlib.sha256(self.paths.resolved_spec_path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return ""

    def create(self) -> None:
        """Make the folder; two runs never share one.

        Raises:
            UsageError: A run of this id exists.
            StorageError: The disk refuses.
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
                hint="go on with it by --resume auto, choose another --run-id, or leave it out for a new one",
            ) from error
        except OSError as error:
            raise storage_error(error, self.paths.run_path) from error

    def write_spec(self, given: str, resolved: str) -> None:
        """Keep the spec as it was given and as it is meant; one that it replaces stays with the attempt before."""
        try:
            before = self.paths.resolved_spec_path.read_bytes()
        except FileNotFoundError:
            before = None
        if before == resolved.encode():
            return
        if before is not None:
            replace_file(self.paths.attempts_path / f"{self.attempt - 1:04d}.resolved.toml", before)
        replace_file(self.paths.spec_path, given.encode())
        replace_file(self.paths.resolved_spec_path, resolved.encode())

    def write_run(self, facts: dict[str, Any]) -> None:
        """Keep what never changes about the run, its versions and machine among it."""
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
        """Return the versions and the machine that the run began with; empty where nobody can read it any more."""
        try:
            found = json.loads((self.paths.run_path / RUN).read_bytes())["environment"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    def begin_attempt(self, **facts: Any) -> None:
        """Record that a process has begun to work on the run.

        Args:
            **facts: What else is to be known, such as what it was resumed from.
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
        """Record how that ended."""
        self._record |= {"ended": time.time(), "status": status, "reason": reason}
        self._write_attempt()

    def _write_attempt(self) -> None:
        _write_json(record_path(self.paths.attempts_path, self.attempt), self._record)


def _write_json(path: Path, body: dict[str, Any]) -> None:
    replace_file(path, (json.dumps(body, indent=1) + "\n").encode())
