"""Noether: a plugin-based PyTorch training framework. A run is one TOML file.

Nothing heavy is imported here: `noether.run`, `noether.load_spec` and `noether.load_run` load what they need when they
are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` costs milliseconds, in which Ctrl-C is not handled yet
if TYPE_CHECKING:
    from typing import Any

    from noether.kernel.markers import every as every
    from noether.kernel.markers import hookimpl as hookimpl
    from noether.runs.launch import run as run
    from noether.runs.load import load_run as load_run
    from noether.runs.outcome import Outcome as Outcome
    from noether.spec.load import load_spec as load_spec

_HOMES = {
    "every": "noether.kernel.markers",
    "hookimpl": "noether.kernel.markers",
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
