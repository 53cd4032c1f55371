"""Metrics of torchmetrics by the name of their class, with options checked against its signature.

torchmetrics takes seconds to import, so that only functions import it.
"""

from __future__ import annotations

import difflib
import inspect
import json
import operator
import warnings
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from types import ModuleType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import InitErrorDetails

if TYPE_CHECKING:
    from torchmetrics import Metric

_PLAIN = (int, float, str, bool, NoneType)
_COMPARES = ("preds", {"target", "targets"})  # names of the arguments of `update`


def build(name: str, options: Mapping[str, Any]) -> Metric:
    """Return a new metric.

    Args:
        name: Name of its class.
        options: Options of its constructor.

    Raises:
        ValidationError: if there is no such metric, or an option does not fit, at the place of the mistake.
    """
    known = classes()
    if name not in known:
        raise _problem(f"expected a metric of torchmetrics{_meant(name, known)}", name, "name")
    fields, left_out = _fields(known[name])
    for option in options:
        if option in left_out:
            raise _problem(f"a spec cannot give '{option}' of {name}", options[option], option)
        if option not in fields:
            allowed = ", ".join(fields) or "no option"
            text = f"unknown option '{option}' of {name}{_meant(option, fields) or '.'} It takes {allowed}"
            raise _problem(text, options[option], option)
    checked = _model(name).model_validate_json(json.dumps(dict(options)), strict=True)
    values = {option: getattr(checked, option) for option in options}
    try:
        with warnings.catch_warnings():  # about memory, which the README says, each time that one is built
            warnings.simplefilter("ignore")
            metric: Metric = known[name](**values)
    except Exception as error:
        raise _problem(f"{name} refuses its options: {error}", dict(options)) from error
    arguments = list(inspect.signature(type(metric).update).parameters.values())[1:]
    needed = [each.name for each in arguments if each.default is each.empty]
    if len(needed) != 2 or needed[0] != _COMPARES[0] or needed[1] not in _COMPARES[1]:
        text = (
            f"expected a metric that compares predictions with targets; {name} takes {', '.join(needed) or 'nothing'}"
        )
        raise _problem(text, name, "name")
    return metric


@cache
def classes() -> dict[str, Any]:
    """Return all classes of metrics by name."""
    import torchmetrics

    modules = [each for each in vars(torchmetrics).values() if isinstance(each, ModuleType)]
    own = [each for each in modules if each.__name__.startswith("torchmetrics.")]
    found = {name: value for module in [*own, torchmetrics] for name, value in vars(module).items()}
    base = torchmetrics.Metric
    return {
        name: value
        for name, value in sorted(found.items())
        if isinstance(value, type) and issubclass(value, base) and value is not base and not name.startswith("_")
    }


@cache
def _model(name: str) -> type[BaseModel]:
    """Return a model of the options of a metric."""
    fields, left_out = _fields(classes()[name])
    needed = [option for option, default in left_out.items() if default is inspect.Parameter.empty]
    if needed:
        text = f"expected a metric that a spec can give all options of; {name} needs {', '.join(needed)}"
        raise _problem(text, name, "name")
    given: dict[str, Any] = {
        option: (kind, ... if default is inspect.Parameter.empty else default)
        for option, (kind, default) in fields.items()
    }
    return create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **given)


def _fields(target: Any) -> tuple[dict[str, tuple[Any, Any]], dict[str, Any]]:
    """Return type and default of each option that a spec can give, and the defaults of those that it cannot."""
    fields: dict[str, tuple[Any, Any]] = {}
    left_out: dict[str, Any] = {}
    for parameter in inspect.signature(target, eval_str=True).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = _of_spec(Any if parameter.annotation is parameter.empty else parameter.annotation)
        if kind is None:
            left_out[parameter.name] = parameter.default
        else:
            fields[parameter.name] = kind, parameter.default
    return fields, left_out


def _of_spec(annotation: Any) -> Any:
    """Return the part of a type that a spec can give; None if there is none."""
    origin, members = get_origin(annotation), get_args(annotation)
    if annotation in (*_PLAIN, Any) or origin is Literal:
        return annotation
    if origin in (Union, UnionType):
        kept = [kind for member in members if (kind := _of_spec(member)) is not None]
        return reduce(operator.or_, kept) if [kind for kind in kept if kind is not NoneType] else None
    is_plain = bool(members) and all(member is ... or _of_spec(member) is not None for member in members)
    return annotation if is_plain and origin in (list, tuple) else None


def _meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f". Did you mean '{near[0]}'?" if near else ""


def _problem(text: str, found: Any, *place: str) -> ValidationError:
    """Return an error at a place below the table of the metric."""
    details = InitErrorDetails(type="value_error", loc=place, input=found, ctx={"error": ValueError(text)})
    return ValidationError.from_exception_data("metric", [details])
