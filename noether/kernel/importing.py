"""Imports of kinds: entries and trusted dotted paths, each checked against its role."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from noether.errors import NoetherError, PluginError, error_text, notes_of
from noether.kernel.entries import COMMAND, ROLES, Entry, Role
from noether.kernel.names import did_you_mean
from noether.kernel.trust import ALWAYS_TRUSTED, SCRIPT, Trust, trust_hint

_FUNCTIONS = "torch.nn.functional"
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=Loss$)")
_SPELLED_OUT = {
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "KLDivLoss": "kl_div",
    "MultiLabelMarginLoss": "multilabel_margin_loss",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
}
"""Functions whose names do not follow from those of their classes."""


def is_module(found: Any) -> bool:
    """Return True if an object is a subclass of `torch.nn.Module`; torch need not be imported."""
    module = getattr(sys.modules.get("torch.nn"), "Module", None)
    return module is not None and inspect.isclass(found) and issubclass(found, module)


def function_instead(module: type, entries: Iterable[Entry]) -> str:
    """Return a hint that names the function of a loss module, by its kind if it has one."""
    functions = vars(sys.modules[_FUNCTIONS]) if _FUNCTIONS in sys.modules else {}
    snake = _WORD.sub("_", module.__name__).lower()
    names = (_SPELLED_OUT.get(module.__name__, ""), snake, snake.removesuffix("_loss"))
    name = next((name for name in names if name in functions and _takes_two(functions[name])), None)
    if name is None or not is_of_torch(module):
        return "a loss is a function, not a module: def my_loss(input, target)"
    kinds = (entry.name for entry in entries if entry.target == f"{_FUNCTIONS}:{name}")
    kind = next(kinds, f"{_FUNCTIONS}.{name}")
    return f'a loss is a function, not a module: loss_fn = "{kind}"'


def _takes_two(function: Any) -> bool:
    try:
        inspect.signature(function).bind(input=None, target=None)
    except (TypeError, ValueError):
        return False
    return True


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
    return explained(f"{entry.role} '{entry.name}' of {entry.origin}", lambda: import_target(entry.target))


def import_file(name: str, file: Path) -> ModuleType:
    """Import a file as the module `<name>@<digest of its path>`: files of one name in two folders are two modules."""
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


def explained(subject: str, call: Callable[[], _Imported], verb: str = "import") -> _Imported:
    """Call code of a plugin or project; turn its errors into a `PluginError` with the place, a hint and its notes."""
    try:
        return call()
    except NoetherError:
        raise
    except (Exception, SystemExit) as error:  # a module that calls sys.exit() must not end the command
        told = PluginError(f"cannot {verb} {subject}: {error_text(error)}{_place(error)}", hint=_hint(error))
        for note in notes_of(error):
            told.add_note(note)
        raise told from error


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


def check_role(role: Role, kind: str, found: Any, entries: Iterable[Entry] = ()) -> None:
    """Check the object that a kind resolves to: a subclass of the role's base; for a loss a function of two tensors.

    Args:
        role: The role that it should play.
        kind: The kind as the spec has it.
        found: The object.
        entries: The registrations of the role, to suggest another kind.

    Raises:
        PluginError: if the object does not fit; the hint names the role that it fits.
    """
    if (problem := role_problem(role, found)) is not None:
        hint = function_instead(found, entries) if role.name == "loss" and is_module(found) else _where_it_fits(found)
        raise PluginError(f"{role.named(kind)} {problem}", hint=hint, code="wrong-role")


def role_problem(role: Role, found: Any) -> str | None:
    """Return the reason why an object cannot play a role, as the predicate of a sentence; None if it can."""
    if role.name == "loss":
        return _loss_problem(found)
    if role.name == "collator":
        return _collator_problem(found)
    if role is COMMAND and (inspect.isclass(found) or not callable(found)):
        return f"names {described(found)}, but a command is a function, a typer app or a click command"
    return None if role.base is None else _class_problem(role, role.base, found)


def _class_problem(role: Role, base: str, found: Any) -> str | None:
    wanted = _base_class(role, base)
    if not inspect.isclass(found):
        if role.name not in BUILT_BY_FUNCTIONS:
            return f"names {described(found)}, but {role.noun} is a class"
        return _function_problem(role, wanted, found)
    if issubclass(found, wanted):
        return None
    return f"names {described(found)}, which is not a subclass of {base.replace(':', '.')}"


def _base_class(role: Role, base: str) -> type:
    found: type = explained(f"the base of {role.name}s", lambda: import_target(base))
    return found


BUILT_BY_FUNCTIONS = frozenset({"model", "dataset", "transform", "optimizer"})
"""Roles that a function can build as well: a kind may name one that returns, say, a model."""


def _function_problem(role: Role, wanted: type, found: Any) -> str | None:
    """Return the reason why a function cannot build a component; torch's own are not called: `torch.hub.load`."""
    if not inspect.isroutine(found) and not isinstance(found, partial):
        return f"names {described(found)}, but {role.noun} is a class, or a function that returns one"
    if _top(found) in ALWAYS_TRUSTED:
        return (
            f"names {described(found)} of {_top(found)}, whose functions a spec does not call; {role.noun} is a class"
        )
    returned = _returned(found)
    if returned is not None and not _class_fits(role, wanted, returned) and not issubclass(wanted, returned):
        return f"names {described(found)}, which returns {described(returned)}, but {role.noun} is expected"
    return None


def _returned(function: Any) -> type | None:
    """Return the class in the annotation of what a function returns, or None if that is not known."""
    try:
        found = inspect.signature(function, eval_str=True).return_annotation
    except Exception:  # an annotation may name what only a type checker imports
        return None
    return found if inspect.isclass(found) and found not in (inspect.Signature.empty, Any) else None


def _class_fits(role: Role, wanted: type, found: type) -> bool:
    """Return True if objects of a class fit a role; a data set may be any map-style class, or a list."""
    is_map_style = hasattr(found, "__getitem__") and hasattr(found, "__len__")
    is_dataset = role.name == "dataset" and is_map_style and not issubclass(found, (Mapping, str, bytes))
    return issubclass(found, wanted) or is_dataset


def result_problem(role: Role, made: Any) -> str | None:
    """Return the reason why an object that a function built does not fit a role; None if it does."""
    if role.base is None or _class_fits(role, _base_class(role, role.base), type(made)):
        return None
    found = "None" if made is None else f"an object of {type(made).__qualname__}"
    return f"returned {found}, expected an object of {role.base.replace(':', '.')}"


def roles_that_fit(found: Any) -> list[str]:
    """Return the roles that an object can play; a function of two tensors is a loss unless it says what it returns."""
    roles = [role.name for role in ROLES.values() if role_problem(role, found) is None]
    return ["loss"] if "loss" in roles and _returned(found) is None else roles


def _loss_problem(found: Any) -> str | None:
    if inspect.isclass(found) or not callable(found):
        return f"names {described(found)}, but a loss is a function that takes (input, target)"
    try:
        signature = inspect.signature(found)
    except ValueError:  # written in C
        return None if is_of_torch(found) else "names a callable whose signature cannot be read"
    try:
        masks = {"mask": None} if "mask" in signature.parameters else {}  # of the points of padded batches
        signature.bind(input=None, target=None, **masks)
    except TypeError as error:
        return f"cannot be called as loss(input=..., target=...): {error}"
    return None


def is_of_torch(found: Any) -> bool:
    """Return True if a class or function is defined in torch itself."""
    return str(getattr(found, "__module__", None)).partition(".")[0] == "torch"


def _collator_problem(found: Any) -> str | None:
    """Return a problem unless an object takes a list of samples; functions of torch are refused."""
    if inspect.isclass(found) or not callable(found):
        return f"names {described(found)}, but a collator is a function that takes a list of samples"
    if is_of_torch(found):
        return f"names {described(found)} of torch, but a collator is Noether's, a plugin's or the project's"
    try:
        inspect.signature(found).bind([])
    except (TypeError, ValueError) as error:
        return f"cannot be called as collate(samples): {error}"
    return None


def described(found: Any) -> str:
    """Return an object as errors name it: `the class Mine`."""
    if inspect.ismodule(found):
        return f"the module {found.__name__}"
    name = getattr(found, "__qualname__", None)
    what = "class" if inspect.isclass(found) else "function" if inspect.isroutine(found) else "object"
    return f"the {what} {name}" if name else f"an object of {type(found).__qualname__}"


def _where_it_fits(found: Any) -> str | None:
    """Return a hint with the role that a class fits; a base that is not imported cannot be its base."""
    if not inspect.isclass(found):
        return None
    for role in ROLES.values():
        module, _, attribute = (role.base or ":").partition(":")
        base = getattr(sys.modules.get(module), attribute, None)
        if inspect.isclass(base) and issubclass(found, base):
            return f"this is {role.noun}; it belongs in {role.hint}"
    return None


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


def _attribute(holder: Any, attribute: str, kind: str, trust: Trust) -> Any:
    """Return an attribute of a module or class that is trusted."""
    if not inspect.ismodule(holder) and not inspect.isclass(holder):
        raise PluginError(
            f"kind {kind!r}: wrong owner of '{attribute}': found {described(holder)}, expected a module or a class",
            code="unknown-kind",
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
    """Return the top-level package that defines an object; `builtins` if the object does not name it."""
    while isinstance(found, partial):
        found = found.func
    home = found.__name__ if inspect.ismodule(found) else getattr(found, "__module__", None)
    return (home if isinstance(home, str) else type(found).__module__).partition(".")[0]


def _outside(kind: str, found: Any) -> PluginError:
    top = _top(found)
    message = f"kind {kind!r} resolves to '{top}', which specs may not import"
    return PluginError(message, hint=trust_hint(top), code="not-trusted")
