"""One line of `metrics.jsonl`, as text and as values; apart because writers write and trackers read it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_ENCODER = json.JSONEncoder(allow_nan=False)
_UPDATE = re.compile(rb'\{"update": (\d+),')


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """All metrics of one boundary, and where in the training it was.

    Attributes:
        update: Optimizer updates completed.
        epoch: Epochs completed.
        sample: Samples seen.
        time: When the line was written, in seconds since 1970 (UTC).
        metrics: Value by metric key, under the key that the callback gave.
    """

    update: int
    epoch: int
    sample: int
    time: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the line, newline included; strict JSON, non-finite numbers as strings.

        The time has a fixed number of digits, so that equal metrics make equally long lines.
        """
        return (
            f'{{"update": {self.update}, "epoch": {self.epoch}, "sample": {self.sample}, '
            f'"time": {self.time:.3f}, "metrics": {_encode_metrics(self.metrics)}}}\n'
        ).encode()

    @classmethod
    def decode(cls, line: bytes) -> MetricRecord:
        """Read a line back.

        Raises:
            ValueError: If it is no line that `encode` wrote.
        """
        try:
            fields = json.loads(line)
            # float() reads "NaN", "Infinity" and "-Infinity" as well as numbers.
            metrics = {key: float(value) for key, value in fields["metrics"].items()}
            return cls(fields["update"], fields["epoch"], fields["sample"], fields["time"], metrics)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no line of a metrics file: {line[:80]!r}") from error


def update_of(line: bytes) -> int:
    """Return the update of a line without reading all of it; for skipping what was delivered already.

    Raises:
        ValueError: If it is no line of a metrics file.
    """
    match = _UPDATE.match(line)
    return int(match[1]) if match else MetricRecord.decode(line).update


def spell_number(value: float) -> float | str:
    """Return what stands for `value` in strict JSON, which knows neither NaN nor infinities."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _encode_metrics(metrics: Mapping[str, float]) -> str:
    try:
        return _ENCODER.encode(metrics)
    except ValueError:  # the encoder found a non-finite number
        return _ENCODER.encode({key: spell_number(value) for key, value in metrics.items()})
