"""What is known about the process behind a run and about its code, for trackers to show."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_GIT_TIMEOUT_S = 5


def process_facts(spec_path: Path | None) -> dict[str, str]:
    """Return user, host, pid, version and git commit of this process; what is not known is left out.

    Asks git, so it belongs on a thread that may wait.

    Args:
        spec_path: The spec; its folder's repository is the one whose commit counts.
    """
    facts = {
        "user": _user(),
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "version": _version(),
        "git_commit": git_commit(spec_path.parent if spec_path else Path.cwd()),
    }
    return {name: value for name, value in facts.items() if value is not None}


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
