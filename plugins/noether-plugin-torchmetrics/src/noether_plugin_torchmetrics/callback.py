"""The callback `torchmetrics`, and metrics of the package by name with options checked against their signature.

torchmetrics takes seconds to import, so that only functions import it.
"""

from __future__ import annotations

import difflib
import inspect
import json
import operator
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, reduce
from types import ModuleType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import InitErrorDetails
from torch import Tensor, nn

from noether.core.callbacks import PeriodicDataIteratorCallback, PeriodicDataIteratorCallbackConfig
from noether.errors import TrainingError

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


MOST_KEYS = 100
"""Entries of a vector that are logged as metrics; a longer one is kept whole."""


class MetricTable(BaseModel):
    """One metric of a field; further keys are the options of its class."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(examples=["MulticlassF1Score"], description="Class of torchmetrics: MulticlassF1Score.")
    key: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="First part of its metric keys; unset: the class as multiclass-f1-score.",
    )

    @model_validator(mode="after")
    def _can_be_built(self) -> MetricTable:
        self.build()
        return self

    def build(self) -> Metric:
        """Return a new metric."""
        return build(self.name, self.model_extra or {})

    @property
    def label(self) -> str:
        """First part of its metric keys."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.name)
        return self.key or words.lower()


class TorchMetricsConfig(PeriodicDataIteratorCallbackConfig):
    """Options of `torchmetrics` beside its interval and data set."""

    metrics: dict[str, list[MetricTable]] = Field(
        min_length=1,
        examples=[{"label": [{"name": "MulticlassF1Score", "num_classes": 10}]}],
        description="Metrics of each field: class of torchmetrics, its options, and the key to log it under.",
    )

    @model_validator(mode="after")
    def _keys_differ(self) -> TorchMetricsConfig:
        for field, tables in self.metrics.items():
            labels = [table.label for table in tables]
            if twice := [label for label in labels if labels.count(label) > 1]:
                raise ValueError(f"two metrics of '{field}' have the key '{twice[0]}': give one of them another `key`")
        return self


class TorchMetricsCallback(PeriodicDataIteratorCallback):
    """Compares outputs with targets, in the units of the data, and logs `{metric}/{dataset_key}/{field}`.

    A metric sees all samples of the data set before its value is taken. A vector or a dict gives a key an entry, and a
    larger result is written to `nonscalars.jsonl`.
    """

    def __init__(self, callback_config: TorchMetricsConfig, **kwargs: Any) -> None:
        super().__init__(callback_config, **kwargs)
        self.metrics = {
            field: {table.label: table.build().to(self.trainer.device) for table in tables}
            for field, tables in callback_config.metrics.items()
        }

    @classmethod
    def produced_metrics(cls, config: TorchMetricsConfig, facts: Any) -> tuple[str, ...]:
        """Return the keys that it logs; the second of each is that of a vector's or dict's entries."""
        data = facts.dataset_key(config.dataset_key)
        keys = [f"{table.label}/{data}/{field}" for field, tables in config.metrics.items() for table in tables]
        return tuple(each for key in keys for each in (key, f"{key}/*"))

    @classmethod
    def metric_directions(cls, config: TorchMetricsConfig) -> dict[str, Any]:
        """Return the directions that torchmetrics knows."""
        found: dict[str, Any] = {}
        for field, tables in config.metrics.items():
            for table in tables:
                is_higher = table.build().higher_is_better
                if is_higher is not None:
                    direction = "higher" if is_higher else "lower"
                    data = config.dataset_key or "*"
                    found |= {f"{table.label}/{data}/{field}{rest}": direction for rest in ("", "/*")}
        return found

    def periodic_callback(self, **arguments: Any) -> None:
        """Begin with empty metrics, also if the last pass was interrupted."""
        self._reset()
        super().periodic_callback(**arguments)
        self._reset()

    def process_data(self, batch: dict[str, Tensor], *, trainer_model: nn.Module) -> None:
        """Update all metrics with a batch."""
        outputs = self.trainer.forward(batch, trainer_model)
        with torch.autocast(self.trainer.device.type, enabled=False):
            for field, metrics in self.metrics.items():
                prediction, target = self._compared(field, outputs, batch)
                for label, metric in metrics.items():
                    with self._named(label, field, prediction, target):
                        metric.update(prediction, target)

    def process_results(self, results: None, **_: Any) -> None:
        """Log the value of each metric over the data set."""
        for field, metrics in self.metrics.items():
            for label, metric in metrics.items():
                with self._named(label, field):
                    value = metric.compute()
                self._log(f"{label}/{self.data_name}/{field}", value)

    def _compared(self, field: str, outputs: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return prediction and target of a field in the units of the data, of a padded batch the valid points."""
        name = f"{field}_target"
        if isinstance(outputs, Tensor) and len(self.metrics) == 1:
            outputs = {field: outputs}
        if not isinstance(outputs, Mapping) or field not in outputs or name not in batch:
            found = sorted(outputs) if isinstance(outputs, Mapping) else f"of type {type(outputs).__name__}"
            raise TrainingError(
                f"callback '{self.id}': missing output or target: found outputs {found} and properties "
                f"{sorted(batch)}, expected output '{field}' and property '{name}'",
                hint="list fields that the model returns under `metrics`",
            )
        prediction, target = (self.in_units(name, precise(each)) for each in (outputs[field], batch[name]))
        mask = batch.get("mask") if self.trainer.has_masks else None
        if mask is None or target.shape[:2] != mask.shape:
            return prediction, target
        if prediction.shape[:2] != mask.shape:
            raise TrainingError(
                f"callback '{self.id}': wrong shape of the output '{field}' of a padded batch: found "
                f"{tuple(prediction.shape)}, expected {tuple(mask.shape)} and what each point has",
                hint="return a value for each point of the batch",
            )
        return prediction[mask], target[mask]

    def _log(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, part in value.items():
                self._log(f"{key}/{name}", part)
        elif not isinstance(value, Tensor):
            self.writer.add_nonscalar(key, value)
        elif value.numel() == 1:
            self.writer.add_scalar(key, value.reshape(()), logger=self.logger, format_str=".4g")
        elif value.ndim == 1 and value.numel() <= MOST_KEYS:
            for index, entry in enumerate(value):
                self.writer.add_scalar(f"{key}/{index}", entry)
        else:
            self.writer.add_nonscalar(key, value)

    @contextmanager
    def _named(self, label: str, field: str, *compared: Tensor) -> Iterator[None]:
        """Name the metric in its errors, with the shapes that it was given."""
        try:
            yield
        except Exception as error:
            shapes = "".join(
                f", {name} {tuple(e.shape)}" for name, e in zip(("output", "target"), compared, strict=False)
            )
            raise TrainingError(
                f"callback '{self.id}': the metric '{label}' of '{field}' fails{shapes}: {error}",
                hint="change its options, or the shape of the output, to what torchmetrics documents for it",
            ) from error

    def _reset(self) -> None:
        for metrics in self.metrics.values():
            for metric in metrics.values():
                metric.reset()


def precise(tensor: Tensor) -> Tensor:
    """Return numbers in double precision, so that sums over a large data set keep their digits; indices as they are."""
    if not tensor.dtype.is_floating_point:
        return tensor
    return tensor.float() if tensor.device.type == "mps" else tensor.double()
