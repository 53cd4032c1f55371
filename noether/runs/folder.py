"""The run folder: what a run is, written before its first update."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from noether.core.providers.path import PathProvider
from noether.core.writers.durable import replace_file, storage_error
from noether.errors import UsageError


class RunFolder:
    """Creates the folder of one run and keeps its records.

    Args:
        paths: Where the run keeps its files.
    """

    def __init__(self, paths: PathProvider) -> None:
        self.paths = paths
        self._attempt = self.paths.attempts_path / "0001.json"
        self._record: dict[str, Any] = {}

    def create(self) -> None:
        """Make the folder; two runs never share one.

        Raises:
            UsageError: A run of this id exists.
            StorageError: The disk refuses.
        """
        try:
            self.paths.output_path.mkdir(parents=True, exist_ok=True)
            self.paths.run_path.mkdir()
            self.paths.attempts_path.mkdir()
        except FileExistsError as error:
            if not self.paths.output_path.is_dir():
                raise UsageError(
                    f"{self.paths.output_path} is a file, expected a folder for runs", hint="let `output` name a folder"
                ) from error
            raise UsageError(
                f"{error.filename} exists already", hint="choose another --run-id, or leave it out for a new one"
            ) from error
        except OSError as error:
            raise storage_error(error, self.paths.run_path) from error

    def write_spec(self, given: str, resolved: str) -> None:
        """Keep the spec as it was given and as it is meant."""
        replace_file(self.paths.spec_path, given.encode())
        replace_file(self.paths.resolved_spec_path, resolved.encode())

    def write_run(self, facts: dict[str, Any]) -> None:
        """Keep what never changes about the run: versions and machine."""
        environment = {
            "noether": version("noether-train"),
            "torch": version("torch"),
            "python": platform.python_version(),
            "platform": platform.platform(),
        }
        body = {"format": 1, "run_id": self.paths.run_id, "created": time.time(), "environment": environment, **facts}
        _write_json(self.paths.run_path / "run.json", body)

    def begin_attempt(self) -> None:
        """Record that a process has begun to work on the run."""
        self._record = {"started": time.time(), "pid": os.getpid(), "host": socket.gethostname(), "status": "RUNNING"}
        _write_json(self._attempt, self._record)

    def end_attempt(self, status: str, reason: str | None) -> None:
        """Record how that ended."""
        self._record |= {"ended": time.time(), "status": status, "reason": reason}
        _write_json(self._attempt, self._record)


def _write_json(path: Path, body: dict[str, Any]) -> None:
    replace_file(path, (json.dumps(body, indent=1) + "\n").encode())
