"""Names of metrics and parameters in MLflow, and the groups in which MLflow's pages show metrics."""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

MAX_NAME_LENGTH = 250
SYSTEM = "system/"
"""Metrics that MLflow shows on a page of their own, and not beside the curves of the model."""
_TIMINGS = "profiling/"
EVALUATION = "Evaluation/"
"""Group of evaluation metrics. Groups stand in the order of their characters, so a capital comes first."""
_MACHINERY = (_TIMINGS, "optim/", "stability/", "data/", "model/", "loss/online/")
"""Metrics that are not results of an evaluation."""
_COUNTS = ("data/*/samples", "model/parameters", "model/trainable_parameters")
"""Metrics with one value in a run, which as a chart is a single bar."""

_PLAIN = re.compile(r"[/\w.\- =]*")
_UNSUITABLE = re.compile(r"[^/\w.\- =]")
_MARK = re.compile(r"\.x[0-9a-f]{8}$")


@lru_cache(maxsize=65536)
def mlflow_name(key: str) -> str:
    """Return MLflow's name for `key`: the same in every process, different for different keys."""
    if _PLAIN.fullmatch(key) and _is_normal(key) and len(key) <= MAX_NAME_LENGTH and not _MARK.search(key):
        return key.replace("=", ":")
    readable = _UNSUITABLE.sub("_", key).replace("=", ":")
    name = _marked("/".join(part for part in readable.split("/") if part not in ("", ".", "..")), key)
    return f"_{name[1:]}" if name.startswith("..") else name


def _is_normal(key: str) -> bool:
    """Return True if the key is a path in the normal form that MLflow requires."""
    return posixpath.normpath(key) == key and key != "." and not key.startswith(("..", "/"))


def _marked(name: str, key: str) -> str:
    """Return a name that ends in a digest of its key."""
    digest = f".x{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return name[: MAX_NAME_LENGTH - len(digest)] + digest


@lru_cache(maxsize=65536)
def _grouped_name(key: str) -> str:
    """Return MLflow's name for a metric, in the group in which MLflow's pages are to show it.

    MLflow groups metrics by everything before the last slash.
    """
    if key.startswith(_TIMINGS):
        return mlflow_name(SYSTEM + key)
    name = mlflow_name(key)
    if key.startswith(_MACHINERY):
        return name
    grouped = EVALUATION + name.replace("/", " ")
    is_clear = " " not in name and len(grouped) <= MAX_NAME_LENGTH
    return grouped if is_clear else _marked(grouped, key)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the metrics of one MLflow run; they stay as they were when it was created.

    Attributes:
        grouped: True if evaluation metrics come first, timings are system metrics, and counts parameters. False if
            metrics have their keys as names.
    """

    grouped: bool = True

    def of(self, key: str) -> str:
        """Return the name of a metric."""
        return _grouped_name(key) if self.grouped else mlflow_name(key)

    def is_parameter(self, key: str) -> bool:
        """Return True if the metric is shown as a parameter."""
        return self.grouped and any(fnmatchcase(key, pattern) for pattern in _COUNTS)


def is_of_the_machine(name: str) -> bool:
    """Return True for a metric of MLflow's own thread, which has another count of steps."""
    return name.startswith(SYSTEM) and not name.startswith(SYSTEM + _TIMINGS)
