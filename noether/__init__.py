"""Noether: a plugin-based PyTorch training framework. A run is one TOML file.

Nothing heavy is imported here: `noether.run`, `noether.load_spec` and `noether.load_run` load what they need when they
are first used.
"""

from __future__ import annotations

import os
import sys


def _leave_working_folder() -> None:
    """Import nothing from the working folder in `python -m noether`, and nothing from a run folder in the command.

    Python puts the working folder first on the path for `-m`, before its own library. A run folder may come from a
    stranger, so a working folder in one is not on the path of processes either that the command starts. Code of the
    project in the working folder is found without it.
    """
    try:
        here = os.getcwd()  # noqa: PTH109  # pathlib is not imported yet
    except FileNotFoundError:  # the working folder is gone
        return
    options = iter(sys.orig_argv[1:])
    option = next((option for option in options if option[:1] == "-" and "m" in option), "")  # -m, -Im, -mnoether
    is_module = sys.argv[:1] == ["-m"] and (option.partition("m")[2] or next(options, "")) == "noether"
    if is_module and not sys.flags.safe_path and sys.path[:1] in ([""], [here]):
        del sys.path[0]
    if is_module or sys.argv[0].endswith("/noether"):
        places = here.split("/")
        if any(os.path.lexists("/".join([*places[:depth], "run.json"])) for depth in range(1, len(places) + 1)):
            sys.path[:] = [place for place in sys.path if os.path.realpath(place) != here]
            os.environ["PYTHONSAFEPATH"] = "1"


_leave_working_folder()  # before anything else is imported

TYPE_CHECKING = False  # `typing` costs milliseconds, in which Ctrl-C is not handled yet
if TYPE_CHECKING:
    from typing import Any

    from noether.kernel.hookspecs import every as every
    from noether.kernel.hookspecs import hookimpl as hookimpl
    from noether.runs.launch import run as run
    from noether.runs.load import load_run as load_run
    from noether.runs.outcome import Outcome as Outcome
    from noether.spec.load import load_spec as load_spec

_HOMES = {
    "every": "noether.kernel.hookspecs",
    "hookimpl": "noether.kernel.hookspecs",
    "load_run": "noether.runs.load",
    "load_spec": "noether.spec.load",
    "run": "noether.runs.launch",
    "Outcome": "noether.runs.outcome",
}
__all__ = ["Outcome", "__version__", "every", "hookimpl", "load_run", "load_spec", "run"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("noether-train")
    if name not in _HOMES:
        raise AttributeError(f"module 'noether' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
