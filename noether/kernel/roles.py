"""Roles of imported objects: subclasses of the role's base, functions that build one, losses and collators."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from noether.errors import PluginError
from noether.kernel.entries import COMMAND, ROLES, Component, Entry, Role, way_out
from noether.kernel.importing import described, explained, import_target, top_of
from noether.kernel.trust import ALWAYS_TRUSTED

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


def check_role(role: Role, kind: str, component: Component, entries: Iterable[Entry] = ()) -> None:
    """Check the object that a kind resolves to: a subclass of the role's base; for a loss a function of two tensors.

    Args:
        role: The role that it should play.
        kind: The kind as the spec has it.
        component: The object, with its registration.
        entries: The registrations of the role, to suggest another kind.

    Raises:
        PluginError: if the object does not fit; the hint names the role that it fits.
    """
    found, entry = component.target, component.entry
    if (problem := role_problem(role, found)) is None:
        return
    hint = function_instead(found, entries) if role.name == "loss" and is_module(found) else _where_it_fits(found)
    if entry is None or entry.is_built_in:
        raise PluginError(f"{role.named(kind)} {problem}", hint=hint, code="wrong-role")
    hint = hint or way_out(entry.distribution)
    raise PluginError(f"{role.named(kind)} of {entry.origin} {problem}", hint=hint, code="wrong-role")


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
    if top_of(found) in ALWAYS_TRUSTED:
        return (
            f"names {described(found)} of {top_of(found)}, whose functions a spec does not call; {role.noun} is a class"
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
