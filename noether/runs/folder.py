"""The run folder: what a run is, written before its first update, and a record of each attempt at it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from noether.checkpoint.durable import make_folder, make_folders, replace_file, storage_error
from noether.checkpoint.paths import PathProvider
from noether.errors import UsageError
from noether.runs.attempts import last_attempt, record_path
from noether.runs.environment import environment

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
