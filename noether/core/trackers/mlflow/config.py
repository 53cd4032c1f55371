"""Config of the MLflow tracker, and the names of metrics and parameters in MLflow."""

from __future__ import annotations

import hashlib
import posixpath
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from noether.config.components import TrackerBaseConfig

MAX_TAG_LENGTH = 8000
SWEEP_TAG = "noether.sweep"
PARENT_TAG = "mlflow.parentRunId"
_OWN_TAGS = (SWEEP_TAG, PARENT_TAG)
"""Tags with a meaning for MLflow or Noether that a spec may set."""
_TAG = r"^[\w\- :][\w.\- :/]*$"
"""Names that MLflow takes for a tag."""
_TagName = Annotated[str, Field(pattern=_TAG, max_length=250)]
_TagValue = Annotated[str, Field(max_length=MAX_TAG_LENGTH)]


class MlflowTrackerConfig(TrackerBaseConfig):
    """Config of the `mlflow` tracker: the store, the experiment and the name of the run."""

    tracking_uri: str | None = Field(
        None,
        examples=["http://localhost:5000"],
        description="Database or server that holds the runs: sqlite:///file.db, postgresql://…, http://… "
        "(default: MLFLOW_TRACKING_URI, else mlflow.db in the working folder, as for `mlflow ui`).",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        examples=["wings"],
        description="Experiment of the run (default: MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else the spec's "
        "name).",
    )
    run_name: str | None = Field(
        None,
        min_length=1,
        examples=["wider-model"],
        description="Name of the run in MLflow's tables. Default: the run id.",
    )
    artifact_location: str | None = Field(
        None,
        min_length=1,
        examples=["/data/mlartifacts"],
        description="Folder or address for the files of a new experiment, fixed when it is created (default: "
        "mlartifacts/<experiment> beside the database; a server has its own default).",
    )
    log_system_metrics: bool = Field(
        False, description="True to also record the use of processor, memory, disk, network and GPU, as system/…."
    )
    report: bool = Field(
        True,
        description="False to leave out `report.html`, the page of `noether runs report`, which a run gets as an "
        "artifact when it ends.",
    )
    log_model: bool = Field(
        False,
        description="True to also keep the trained model at the end, with its transforms, as a model that "
        "mlflow.pyfunc loads.",
    )
    register_as: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[^/:.%\"']+$",
        examples=["airfoil-pressure"],
        description="Name of the registered model that gets the trained model as its next version; needs `log_model`.",
    )
    tags: dict[
        Annotated[str, Field(pattern=_TAG, max_length=250)], Annotated[str, Field(max_length=MAX_TAG_LENGTH)]
    ] = Field(
        default_factory=dict,
        examples=[{"team": "wings"}],
        description="Tags of the run. `noether.sweep` names a sweep: the run becomes a child of the run of that sweep.",
    )
    note: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        examples=["Wider layers, as discussed on Monday."],
        description="Text in Markdown at the beginning of the run's description.",
    )
    group_metrics: bool = Field(
        True,
        description="Show evaluation metrics first, timings as system metrics and counts as parameters; false to name "
        "every metric by its key.",
    )
    request_timeout_s: int = Field(
        10,
        ge=1,
        description="Seconds to wait for a server's reply, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set.",
    )

    @field_validator("tags")
    @classmethod
    def _tags_are_free(cls, tags: dict[str, str]) -> dict[str, str]:
        if taken := [name for name in tags if name.startswith(("mlflow.", "noether.")) and name not in _OWN_TAGS]:
            raise ValueError(f"{taken[0]} is set by MLflow or Noether, expected another name")
        return tags

    @model_validator(mode="after")
    def _registers_what_it_logs(self) -> Self:
        if self.register_as is not None and not self.log_model:
            raise ValueError("found register_as without log_model = true, expected both")
        return self


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
