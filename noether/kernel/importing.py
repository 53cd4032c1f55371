"""Import what an entry or a dotted path names, with failures that say whose code failed and where."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from noether.errors import PluginError
from noether.kernel.entry import Entry

_MACHINERY = ("<frozen ", importlib.__file__, str(Path(__file__).parent))
_Imported = TypeVar("_Imported")


def import_target(target: str) -> Any:
    """Import `module:Attr`, or a module alone."""
    module, _, attribute = target.partition(":")
    imported = import_module(module)
    return attrgetter(attribute)(imported) if attribute else imported


def import_entry(entry: Entry) -> Any:
    """Import what an entry names.

    Raises:
        PluginError: Its code fails to import, or has no such attribute.
    """
    return explained(f"{entry.role} '{entry.name}' of {entry.origin}", lambda: import_target(entry.target))


def explained(what: str, importer: Callable[[], _Imported]) -> _Imported:
    """Call `importer`; whatever it raises becomes a `PluginError` that names the place and the way out."""
    try:
        return importer()
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # a module that calls sys.exit() must not end the command
        message = f"cannot import {what}: {type(error).__name__}: {error}{_place(error)}"
        raise PluginError(message, hint=_hint(error)) from error


def _place(error: BaseException) -> str:
    """Return ` (file:line)` of the innermost frame outside the import machinery."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_MACHINERY):
            return f" ({frame.filename}:{frame.lineno})"
    return ""


def _hint(error: BaseException) -> str | None:
    top = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and top and find_spec(top) is None:
        return f"it needs the module '{top}', which is not installed: pip install {top}"
    return None
