"""The kernel: hooks, the order in which they are called, and the classes that kinds stand for.

It imports pluggy and the standard library only, so that listing plugins and checking a spec need no torch.
"""

from noether.kernel.markers import PROJECT, hookimpl, hookspec

__all__ = ["PROJECT", "hookimpl", "hookspec"]
