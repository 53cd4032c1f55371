"""Imports of plugin and project code: entries, files, and trusted dotted paths."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from noether.errors import NoetherError, PluginError, error_text, notes_of
from noether.kernel.entries import COMMAND, Entry, way_out
from noether.kernel.names import did_you_mean
from noether.kernel.trust import SCRIPT, Trust, trust_hint

_MACHINERY = ("<frozen ", importlib.__file__, str(Path(__file__).parent))
_Imported = TypeVar("_Imported")


def import_target(target: str) -> Any:
    """Import `module:Attr`, or a module alone."""
    module, _, attribute = target.partition(":")
    imported = import_module(module)
    return attrgetter(attribute)(imported) if attribute else imported


def import_entry(entry: Entry) -> Any:
    """Import the target of an entry.

    Raises:
        PluginError: if its code fails to import, or has no such attribute.
    """
    subject = f"{entry.role} '{entry.name}' of {entry.origin}"
    remedy = way_out(entry.distribution)
    return explained(subject, lambda: import_target(entry.target), remedy=remedy, prints=entry.role == COMMAND.name)


def import_file(name: str, file: Path) -> ModuleType:
    """Import a file as the module `<name>@<digest of its path>`: files of one name in two folders are two modules."""
    import hashlib  # with OpenSSL, for which `noether --help` does not wait

    own_name = f"{name}@{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if own_name not in sys.modules:
        spec = spec_from_file_location(own_name, file)
        assert spec is not None and spec.loader is not None, "it is a file of Python"
        sys.modules[own_name] = module = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[own_name]
            raise
    return sys.modules[own_name]


def explained(
    subject: str,
    call: Callable[[], _Imported],
    verb: str = "import",
    remedy: str | None = None,
    *,
    prints: bool = False,
) -> _Imported:
    """Call code of a plugin or project; turn its errors into a `PluginError` with the place, a hint and its notes.

    Args:
        subject: The imported thing, as errors name it.
        call: Imports it, or calls its code.
        verb: The action, in errors.
        remedy: Hint for errors that have none of their own.
        prints: True to leave standard output to that code; else its prints go to standard error, because the output of
            a command may be read by a program.
    """
    try:
        with nullcontext() if prints else _prints_to_stderr():
            return call()
    except NoetherError:
        raise
    except (Exception, SystemExit) as error:  # a module that calls sys.exit() must not end the command
        told = PluginError(f"cannot {verb} {subject}: {error_text(error)}{_place(error)}", hint=_hint(error) or remedy)
        for note in notes_of(error):
            told.add_note(note)
        raise told from error


_printing = threading.Lock()
_printed_to: list[Any] = []


@contextmanager
def _prints_to_stderr() -> Iterator[None]:
    """Let prints go to standard error; of several imports in threads, the last to end puts standard output back."""
    with _printing:
        _printed_to.append(_printed_to[0] if _printed_to else sys.stdout)
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        with _printing:
            found = _printed_to.pop()
            if not _printed_to:
                sys.stdout = found


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
        return f"install the package that has the module '{top}', or put the module into your project"
    return None


def described(found: Any) -> str:
    """Return an object as errors name it: `the class Mine`."""
    if inspect.ismodule(found):
        return f"the module {found.__name__}"
    name = getattr(found, "__qualname__", None)
    what = "class" if inspect.isclass(found) else "function" if inspect.isroutine(found) else "object"
    return f"the {what} {name}" if name else f"an object of {type(found).__qualname__}"


def resolve_dotted(kind: str, trust: Trust) -> Any:
    """Import the object at a dotted path.

    Each attribute on the way has to be defined in a trusted package: `torch.hub.os.system` is refused at `os`, and so
    is an object that torch only imports.

    Raises:
        PluginError: if the path is malformed, not trusted, does not exist, or fails to import.
    """
    if "<" in kind:
        raise PluginError(
            f"kind {kind!r} stands for an object that Python code passed, which no spec can name",
            hint="pass it again from that code, or give it a name in a module",
            code="unknown-kind",
        )
    parts = kind.replace(":", ".").split(".")
    named = parts[1:] if parts[0] == SCRIPT else parts
    if not all(part.isidentifier() and not part.startswith("__") for part in named) or kind.count(":") > 1:
        raise PluginError(
            f"malformed kind: found {kind!r}, expected a dotted path of Python names",
            hint="write package.module.Class",
            code="unknown-kind",
        )
    trust.require(parts[0], kind)
    module, attributes = _import_prefix(kind, parts, trust)
    found: Any = module
    for attribute in attributes:
        found = _attribute(found, attribute, kind, trust)
    if not trust.covers(top_of(found)):
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


def _attribute(holder: Any, attribute: str, kind: str, trust: Trust) -> Any:
    """Return an attribute of a module or class that is trusted."""
    if not inspect.ismodule(holder) and not inspect.isclass(holder):
        raise PluginError(
            f"kind {kind!r}: wrong owner of '{attribute}': found {described(holder)}, expected a module or a class",
            code="unknown-kind",
        )
    if not trust.covers(top_of(holder)):
        raise _outside(kind, holder)
    try:
        return getattr(holder, attribute)  # a module may import it only now
    except AttributeError:
        suggestion = did_you_mean(attribute, [*vars(holder), *_submodules(holder)])
        raise PluginError(
            f"kind {kind!r}: {holder.__name__} has no '{attribute}'.{suggestion}", code="unknown-kind"
        ) from None


def top_of(found: Any) -> str:
    """Return the top-level package that defines an object; `builtins` if the object does not name it."""
    while isinstance(found, partial):
        found = found.func
    home = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None)
    return (home if isinstance(home, str) else type(found).__module__).partition(".")[0]


def _outside(kind: str, found: Any) -> PluginError:
    top = top_of(found)
    message = f"kind {kind!r} resolves to '{top}', which specs may not import"
    return PluginError(message, hint=trust_hint(top), code="not-trusted")
