"""The kernel: which hooks exist, who takes part in them in which order, and how a `kind` becomes a class.

It knows pluggy and the standard library only, so that listing plugins and checking a spec need no torch.
"""

from noether.kernel.markers import PROJECT, hookimpl, hookspec

__all__ = ["PROJECT", "hookimpl", "hookspec"]
