"""Resolve a dotted path to an object without leaving the packages that are trusted."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from noether.core.utils.nearest import did_you_mean
from noether.errors import PluginError
from noether.kernel.importing import explained
from noether.kernel.trust import Trust, trust_hint


def is_dotted(kind: str) -> bool:
    """Whether a kind is spelled as a dotted path: `pkg.mod.Class` or `pkg.mod:Class`."""
    return "." in kind or ":" in kind


def resolve_dotted(kind: str, trust: Trust) -> Any:
    """Import what a dotted path names.

    The walk from a module through its attributes stays inside: `torch.hub.os.system` begins in torch and is
    refused where it reaches `os`, and so is an object that was defined elsewhere.

    Raises:
        PluginError: The path is malformed, not trusted, does not exist, or fails to import.
    """
    parts = kind.replace(":", ".").split(".")
    if not all(part.isidentifier() and not part.startswith("__") for part in parts) or kind.count(":") > 1:
        raise PluginError(
            f"kind {kind!r} is no dotted path of Python names", hint="write package.module.Class", code="unknown-kind"
        )
    trust.require(parts[0], kind)
    module, attributes = _import_prefix(kind, parts, trust)
    found: Any = module
    for attribute in attributes:
        found = _step(found, attribute, kind, trust)
    if not trust.covers(_top(found)):
        raise _outside(kind, found)
    return found


def _import_prefix(kind: str, parts: list[str], trust: Trust) -> tuple[ModuleType, list[str]]:
    """Import the longest prefix of a path that is a module; return it with the names that are left."""
    trust.require_code(parts[0], kind)
    module: ModuleType = explained(f"{kind!r}", partial(import_module, parts[0]))
    for position in range(1, len(parts)):
        name = ".".join(parts[: position + 1])
        if parts[position] not in _submodules(module):
            return module, parts[position:]
        trust.require_code(name, kind)
        module = explained(f"{kind!r}", partial(import_module, name))
    return module, []


def _submodules(package: object) -> Iterator[str]:
    """Return the names of a package's modules; none for a plain module or a class."""
    return (module.name for module in pkgutil.iter_modules(getattr(package, "__path__", [])))


def _step(holder: Any, attribute: str, kind: str, trust: Trust) -> Any:
    """Take one attribute of a module or a class that is trusted."""
    if not inspect.ismodule(holder) and not inspect.isclass(holder):
        raise PluginError(
            f"kind {kind!r}: '{attribute}' follows something that is neither a module nor a class", code="unknown-kind"
        )
    if not trust.covers(_top(holder)):
        raise _outside(kind, holder)
    try:
        return getattr(holder, attribute)  # a module may import it only now
    except AttributeError:
        suggestion = did_you_mean(attribute, [*vars(holder), *_submodules(holder)])
        raise PluginError(
            f"kind {kind!r}: {holder.__name__} has no '{attribute}'.{suggestion}", code="unknown-kind"
        ) from None


def _top(found: Any) -> str:
    """Return the top-level package that an object was defined in, `builtins` where it does not say."""
    while isinstance(found, partial):
        found = found.func
    home = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None)
    return (home if isinstance(home, str) else type(found).__module__).partition(".")[0]


def _outside(kind: str, found: Any) -> PluginError:
    top = _top(found)
    message = f"kind {kind!r} leaves the packages that a spec may name: it leads into '{top}'"
    return PluginError(message, hint=trust_hint(top), code="not-trusted")
