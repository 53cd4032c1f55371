"""The kernel: hooks, the order in which they are called, and the classes that kinds stand for.

It imports pluggy and the standard library only, so that listing plugins and checking a spec need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noether.kernel.hookspecs import PROJECT as PROJECT
    from noether.kernel.hookspecs import hookimpl as hookimpl
    from noether.kernel.hookspecs import hookspec as hookspec

__all__ = ["PROJECT", "hookimpl", "hookspec"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: pluggy takes 17 ms, and most commands have no hooks."""
    if name not in __all__:
        raise AttributeError(f"module 'noether.kernel' has no attribute {name!r}")
    from noether.kernel import hookspecs

    return getattr(hookspecs, name)
