"""The tags of a run in MLflow: who, from which spec and commit, on which machine."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from noether.core.trackers.base import RunDescription

MAX_TAG_LENGTH = 8000
_GIT_TIMEOUT_S = 5


def run_tags(run: RunDescription, run_name: str) -> dict[str, str]:
    """Return the tags of a new run; a fact that is not known has no tag."""
    folder = run.spec_path.parent if run.spec_path else Path.cwd()
    facts = {
        "mlflow.runName": run_name,
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": str(run.spec_path) if run.spec_path else None,
        "mlflow.source.git.commit": git_commit(folder),
        "mlflow.note.content": run.summary or None,
        **process_tags(run),
        **run.tags,
    }
    return {name: value[:MAX_TAG_LENGTH] for name, value in facts.items() if value is not None}


def process_tags(run: RunDescription) -> dict[str, str | None]:
    """Return the tags that each attempt at a run sets anew."""
    return {
        "noether.run_id": run.run_id,
        "noether.run_dir": str(run.run_dir.absolute()),
        "noether.version": _version(),
        "noether.host": socket.gethostname(),
        "noether.pid": str(os.getpid()),
    }


def git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in the folder's repository; None where there is none, or no git.

    `git rev-parse` runs nothing that a repository's own config names, unlike `git status`.
    """
    command = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return None


def _version() -> str | None:
    try:
        return version("noether-train")
    except PackageNotFoundError:
        return None
