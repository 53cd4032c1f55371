"""The values of a round: metrics become numbers with few device reads, other values JSON; and those of a whole run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noether.config.metric_facts import MetricPropertyProvider
from noether.errors import TrainingError
from noether.kernel.names import did_you_mean
from noether.metrics.device import Transfer
from noether.metrics.metrics_file import MetricRecord, spell_number

NONSCALARS = "nonscalars.jsonl"


class MissingMetricError(TrainingError, KeyError):
    """A metric was read that was not logged in this round.

    Args:
        key: The key that was read.
        present: The keys that were logged.
    """

    def __init__(self, key: str, present: Iterable[str]) -> None:
        present = sorted(present)
        listed = ", ".join(repr(name) for name in present) or "none"
        super().__init__(
            f"metric {key!r} was not logged in this round: found {listed}.{did_you_mean(key, present)}",
            hint="the callback that logs it has to come earlier in the spec and fire in the same round",
        )


def own_scalar(key: str, value: Any) -> float | Tensor:
    """Return `value` as a float or a tensor that no later in-place change can reach.

    A value in the host's memory becomes a float. A tensor on an accelerator is copied there, without waiting.

    Args:
        key: The metric key, for the error.
        value: A number, or a tensor or array with one element.

    Raises:
        TrainingError: if it is not a real scalar.
    """
    if isinstance(value, Tensor):
        if value.is_nested or value.is_meta or value.numel() != 1 or value.is_complex():
            shape = "a nested tensor" if value.is_nested else f"a tensor of shape {tuple(value.shape)}"
            raise _not_a_scalar(key, f"{shape} and type {value.dtype}{' without data' if value.is_meta else ''}")
        return float(value.item()) if value.is_cpu else value.detach().clone()
    if isinstance(value, Real):
        try:
            return float(value)
        except (OverflowError, TypeError, ValueError):  # an integer without a float near it, a time span of numpy
            raise _not_a_scalar(key, f"{value!r:.80} ({type(value).__name__})") from None
    if getattr(value, "size", None) == 1 and hasattr(value, "item"):  # an array with one element
        return own_scalar(key, value.item())
    raise _not_a_scalar(key, f"{value!r:.80} ({type(value).__name__})")


def _not_a_scalar(key: str, found: str) -> TrainingError:
    return TrainingError(
        f"metric {key!r} cannot be logged: found {found}, expected a scalar",
        hint="reduce it to one number first, for example with .mean(), or log it with add_nonscalar",
    )


def read_scalars(values: MutableMapping[str, float | Tensor]) -> None:
    """Replace the tensors in `values` with floats, with one copy to the host for each device and type; waits."""
    for keys, stacked in grouped(values):
        fill(values, keys, stacked.tolist())


def grouped(values: Mapping[str, float | Tensor]) -> list[tuple[list[str], Tensor]]:
    """Return the keys of the tensors in `values` by device and type, and one tensor with the values of each group."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for key, value in values.items():
        if type(value) is not float and isinstance(value, Tensor):  # no call for most: a boundary may be every update
            groups.setdefault((value.device, value.dtype), []).append(key)
    return [
        (keys, torch.stack([values[key].reshape(()) for key in keys]))  # type: ignore[union-attr]  # tensors all
        for keys in groups.values()
    ]


def fill(values: MutableMapping[str, float | Tensor], keys: Sequence[str], numbers: Sequence[float]) -> None:
    """Put the numbers of a group of keys in place of its tensors."""
    for key, number in zip(keys, numbers, strict=True):
        values[key] = float(number)


def own_nonscalar(key: str, value: Any) -> Any:
    """Return a copy of `value` that no later in-place change can reach; tensors stay on their device.

    Args:
        key: Its key, for the error.
        value: Numbers, strings, tensors and arrays, and lists and dicts of them.

    Raises:
        TrainingError: if it holds something that JSON cannot express.
    """
    if isinstance(value, Tensor) and not (value.is_complex() or value.is_meta or value.is_nested):
        return (value.detach().dequantize() if value.is_quantized else value.detach().to_dense()).clone()
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): own_nonscalar(key, item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [own_nonscalar(key, item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind == "f":
            value = value.astype(np.float64)  # a list of longer numbers holds no floats
        if value.dtype.kind in "biufUS" and not isinstance(value, np.bytes_):
            return value.tolist()
        if value.dtype.kind == "O":
            return own_nonscalar(key, value.tolist())
    raise TrainingError(
        f"non-scalar {key!r} cannot be logged: found a value of type {type(value).__name__} in it, "
        "expected numbers, strings, tensors, arrays, and lists and dicts of them",
        hint="convert it before add_nonscalar",
    )


def sent(value: Any, transfer: Transfer) -> Any:
    """Return a value with its tensors on their way to the host."""
    if isinstance(value, Tensor):
        return transfer.send(value)
    if isinstance(value, dict):
        return {name: sent(item, transfer) for name, item in value.items()}
    return [sent(item, transfer) for item in value] if isinstance(value, list) else value


def encode_nonscalar(at: MetricRecord, key: str, value: Any) -> bytes:
    """Return the line of one value: counters and time as in `metrics.jsonl`, then `key` and `value`."""
    fields = {"update": at.update, "epoch": at.epoch, "sample": at.sample, "time": round(at.time, 3), "key": key}
    return json.dumps(fields | {"value": as_json(value)}, allow_nan=False).encode() + b"\n"


def as_json(value: Any) -> Any:
    """Return a value with its tensors as lists, and numbers that JSON lacks as texts."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, float):
        return spell_number(value)
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


class Round:
    """The metrics of the boundary to come; shared by a log writer and all its views.

    Attributes:
        scalars: Metrics by whole key; tensors stay on their device until they are read.
        counts: Numbers of values in means whose number only the device knows; a mean over nothing is left out.
        nonscalars: Values of `add_nonscalar` by whole key.
        results: Figures, tables, histograms and files by whole key, as `figures.encoded` returns them.
        printed: Logger and format of each metric that is printed too.
        has_values: True if anything was added; an attribute, because the loop reads it at every update.
    """

    __slots__ = ("counts", "has_values", "nonscalars", "printed", "results", "scalars")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.scalars: dict[str, float | Tensor] = {}
        self.counts: dict[str, float | Tensor] = {}
        self.nonscalars: dict[str, Any] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.printed: dict[str, tuple[logging.Logger, str]] = {}
        self.has_values = False

    @property
    def has_tensors(self) -> bool:
        """True if a scalar is on a device, or a non-scalar may be, or a mean may have to be left out."""
        for value in self.scalars.values():  # a generator would be a call for each, at every boundary
            if type(value) is not float:
                return True
        return bool(self.nonscalars or self.results or self.counts)

    def read(self) -> None:
        """Read all scalars; waits for the device if one is a tensor there."""
        read_scalars(self.scalars)
        if self.counts:
            read_scalars(self.counts)
            self._leave_out()

    def moved(self) -> Round:
        """Return another round with everything that is in this one, which is empty then."""
        other = Round()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        self.clear()
        return other

    def send(self, transfer: Transfer) -> Callable[[], None]:
        """Send all values to the host; return a function that takes them once they are there."""
        self.nonscalars, self.results = sent(self.nonscalars, transfer), sent(self.results, transfer)
        groups = [
            (values, keys, transfer.send(stacked))
            for values in (self.scalars, self.counts)
            for keys, stacked in grouped(values)
        ]

        def take() -> None:
            for values, keys, numbers in groups:
                fill(values, keys, numbers.tolist())
            self._leave_out()

        return take

    def _leave_out(self) -> None:
        """Forget means over nothing."""
        for key, count in self.counts.items():
            if not count:
                self.scalars.pop(key, None)
        self.counts.clear()


class MetricSummary:
    """Final and best values of the metrics of a run, updated line by line.

    Args:
        provider: Decides in which direction a metric gets better; without it there are no best values.
    """

    def __init__(self, provider: MetricPropertyProvider | None) -> None:
        self.final: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self._provider = provider
        self._signs: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add the values of one line."""
        self.final.update(metrics)
        if self._provider is None:
            return
        signs = self._signs
        for key, value in metrics.items():
            sign = signs[key] if key in signs else self._sign(key)
            if sign and math.isfinite(value):
                best = self.best.get(key, value)
                self.best[key] = max(best, value) if sign > 0 else min(best, value)

    def clear(self) -> None:
        """Forget everything."""
        self.final.clear()
        self.best.clear()

    def _sign(self, key: str) -> int:
        """Return 1 for a metric that is better higher, -1 for one that is better lower, 0 for any other; note it."""
        direction = self._provider.direction(key) if self._provider else None
        self._signs[key] = {"higher": 1, "lower": -1}.get(direction or "", 0)
        return self._signs[key]
