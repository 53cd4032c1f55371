"""Run commands without what only POSIX systems have, as on Windows: their modules, signals and functions of `os`.

Each argument is a command line without `noether`; the first one that fails is the last one.
"""

import asyncio  # noqa: F401  # used before the names below are gone: other packages ask for the system themselves
import multiprocessing  # noqa: F401
import os
import signal
import sys
from importlib.abc import MetaPathFinder
from types import FrameType

import pandas  # noqa: F401
import rich.console  # noqa: F401
import torch  # noqa: F401
import typer  # noqa: F401

MODULES = {"fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
OF_OS = "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK fork getpgid killpg pread pwrite setsid statvfs sysconf uname"
OF_SIGNAL = "SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGPROF SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGVTALRM"


class Absent(MetaPathFinder):
    """Find none of the modules for Noether."""

    def find_spec(self, name, path=None, target=None):
        """Raise an error as Python does if Noether imports one of them."""
        frame: FrameType | None = sys._getframe(1)
        while frame and "importlib" in frame.f_globals["__name__"]:
            frame = frame.f_back
        if name in MODULES and frame and frame.f_globals["__name__"].startswith("noether"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


for module in MODULES:
    sys.modules.pop(module, None)
sys.meta_path.insert(0, Absent())
for place, names in ((os, OF_OS), (signal, OF_SIGNAL)):
    for name in names.split():
        delattr(place, name)
del signal.pthread_kill, signal.pthread_sigmask
sys.platform = "win32"

from noether.__main__ import main  # noqa: E402

for command in sys.argv[1:]:
    print("noether", command)
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
