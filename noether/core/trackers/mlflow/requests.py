"""MLflow requests: names, tags, batches, results, history and refused values."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from noether.core.trackers.mlflow.client import RUN_ID_TAG
from noether.core.trackers.mlflow.config import MAX_TAG_LENGTH, Names, is_of_the_machine, mlflow_name
from noether.core.trackers.mlflow.store import RequestTooLargeError
from noether.metrics.delivery import process_facts
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import Result
from noether.metrics.tracker import RunDescription

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo, Metric, Param

ERROR_TAG = "noether.error"
INFINITIES_TAG = "noether.infinite_values_left_out"
REFUSED_TAG = "noether.refused_values_left_out"
NAMES_TAG = "noether.metric_names"
"""Tag of a run whose metrics are grouped; runs of earlier versions have none, and their metrics the keys as names."""
CONTINUES_TAG = "noether.continues"
OF_THE_OWNER = ("mlflow.runName", "mlflow.user", "mlflow.note.content", "noether.note.sha256")
"""Tags that the maker of an MLflow run has set already."""


def run_tags(run: RunDescription, run_name: str) -> dict[str, str]:
    """Return the tags of a new run; an unknown fact has no tag."""
    facts = run.facts or process_facts(run.spec_path)
    tags = {
        "mlflow.runName": run_name,
        "mlflow.user": facts.get("user"),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": str(run.spec_path) if run.spec_path else None,
        CONTINUES_TAG: run.continues.get("run_id"),
        "mlflow.source.git.commit": facts.get("git_commit"),
        **process_tags(run),
        **run.tags,
    }
    return {name: value[:MAX_TAG_LENGTH] for name, value in tags.items() if value is not None}


def process_tags(run: RunDescription) -> dict[str, str]:
    """Return the tags that each attempt of a run sets again."""
    facts = run.facts or process_facts(run.spec_path)
    known = {f"noether.{name}": facts[name] for name in ("version", "host", "pid") if name in facts}
    return {
        RUN_ID_TAG: run.run_id,
        "noether.run_dir": str(run.run_dir.absolute()),
        "noether.attempt": str(run.attempt),
        **known,
    }


MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_PARAM_LENGTH = 6000
MAX_REQUEST_BYTES = 900_000
"""MLflow accepts one megabyte, including the text around the values."""

_FIELDS_BYTES = 120
"""Bytes of a value's number, time and step, and of the field names."""

_Value = TypeVar("_Value", "Metric", "Param")
_PLAIN_NAMES = Names(grouped=False)


def to_metrics(records: Sequence[MetricRecord], names: Names = _PLAIN_NAMES) -> tuple[list[Metric], int]:
    """Return the values of the records with the update as MLflow's step, and the number of omitted infinities.

    Those that are shown as parameters are left out: see `counts_in`.

    MLflow keeps NaN, but stores an infinity as 1.8e308, which flattens the chart.
    """
    from mlflow.entities import Metric

    metrics, infinities = [], 0
    for record in records:
        timestamp = max(0, int(record.time * 1000))
        for key, value in record.metrics.items():
            if names.is_parameter(key):
                continue
            if math.isinf(value):
                infinities += 1
            else:
                metrics.append(Metric(names.of(key), value, timestamp, record.update))
    return metrics, infinities


def counts_in(records: Sequence[MetricRecord], names: Names) -> dict[str, str]:
    """Return the values of the records that are shown as parameters, as text."""
    return {
        key: f"{value:.15g}" for record in records for key, value in record.metrics.items() if names.is_parameter(key)
    }


def to_params(params: Mapping[str, str]) -> list[Param]:
    """Return the parameters in the form that MLflow and all of its databases accept.

    A long value is cut and ends in a digest of the full text, which is in the run's spec.
    """
    from mlflow.entities import Param

    return [Param(mlflow_name(key), _cut(_storable(value))) for key, value in params.items()]


def in_requests(values: Sequence[_Value], at_most: int) -> Iterator[list[_Value]]:
    """Yield the values in order, in lists that fit into one request."""
    chunk: list[_Value] = []
    size = 0
    for value in values:
        needed = _bytes(value.key) + (_bytes(value.value) if isinstance(value.value, str) else 0) + _FIELDS_BYTES
        if chunk and (len(chunk) == at_most or size + needed > MAX_REQUEST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(value)
        size += needed
    if chunk:
        yield chunk


def _bytes(text: str) -> int:
    return len(text) if text.isidentifier() and text.isascii() else len(json.dumps(text))


def _storable(text: str) -> str:
    """Replace characters that some databases refuse: halves of surrogate pairs, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _cut(value: str) -> str:
    if len(value) <= MAX_PARAM_LENGTH:
        return value
    end = f"… sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return value[: MAX_PARAM_LENGTH - len(end)] + end


class _OfOneRun:
    """Requests about one MLflow run.

    Args:
        client: MLflow's client.
        run_id: Id of the MLflow run.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id


class History(_OfOneRun):
    """The points that an MLflow run has, looked up as far as they are asked for.

    A point is its name and step: a resumed run computes timings again that differ from those that arrived.

    Args:
        client: MLflow's client.
        run_id: Id of the MLflow run.
        names: Names of its metrics.
    """

    def __init__(self, client: MlflowClient, run_id: str, names: Names) -> None:
        super().__init__(client, run_id)
        self._names = names
        latest = client.get_run(run_id).data._metric_objs  # the public `metrics` has no steps
        self._newest = {metric.key: metric.step for metric in latest if not is_of_the_machine(metric.key)}
        self._steps: dict[str, Counter[int]] = {}

    @property
    def newest(self) -> int:
        """The newest step of any metric of the run; -1 if it has none."""
        return max(self._newest.values(), default=-1)

    def missing_in(self, records: Sequence[MetricRecord]) -> list[MetricRecord]:
        """Return the records without values that the run has; drop records that become empty.

        Args:
            records: All records of some updates.
        """
        first = {self._names.of(key): record.update for record in reversed(records) for key in record.metrics}
        known = {name for name in first if self._newest.get(name, -1) >= first[name]}
        logged = {name: Counter(self._of(name)) for name in known}
        missing = []
        for record in records:
            metrics = {}
            for key, value in record.metrics.items():
                steps = logged.get(self._names.of(key), Counter())
                if steps[record.update]:
                    steps[record.update] -= 1
                elif not (math.isinf(value) and record.update <= self.newest):  # else it was left out before
                    metrics[key] = value
            if metrics:
                missing.append(replace(record, metrics=metrics))
        return missing

    def _of(self, name: str) -> Counter[int]:
        if name not in self._steps:
            points = self._client.get_metric_history(self._run_id, name)
            self._steps[name] = Counter(point.step for point in points)
        return self._steps[name]


def logged_values(
    client: MlflowClient, run_id: str, keys: Collection[str], names: Names
) -> dict[str, dict[int, list[float]]]:
    """Return the values of an MLflow run by metric key and step."""
    found: dict[str, dict[int, list[float]]] = {}
    for key in keys:
        for point in client.get_metric_history(run_id, names.of(key)):
            found.setdefault(key, {}).setdefault(point.step, []).append(point.value)
    return found


_IMAGE = re.compile(r"images/(.+?)[+%]step[+%](\d+)[+%].+\.png")
"""MLflow's name of the picture of a key and step; older versions wrote `%` for `+`."""
_IMAGE_KEY = re.compile(r"[\w\-./ ]{1,150}", re.ASCII)


class ResultSender(_OfOneRun):
    """Give results to one MLflow run: each as an artifact below `results/`, a figure as an image of its step as well.

    An artifact that comes again replaces itself; an image is looked up before.
    """

    _images: set[tuple[str, int]] | None = None

    def send(self, result: Result, path: Path) -> None:
        """Upload a result.

        Args:
            result: Its key, kind and update.
            path: Its file.
        """
        self._client.log_artifact(self._run_id, str(path), str(PurePosixPath(result.file).parent))
        if result.kind != "figure":
            return
        key, image = _image_of(result)
        if image not in self._shown_images():
            from PIL import Image

            with Image.open(path) as picture:
                milliseconds = int(result.time * 1000)
                self._client.log_image(self._run_id, picture, key=key, step=result.update, timestamp=milliseconds)
            self._shown_images().add(image)

    def missing(self, results: Sequence[Result]) -> list[Result]:
        """Return the results that the run lacks, or has with another content."""
        self._images = None
        folders = {str(PurePosixPath(result.file).parent) for result in results}
        listed = {(item.path, item.file_size) for folder in folders for item in self._list(folder)}
        return [result for result in results if (result.file, result.size) not in listed or not self._has(result)]

    def _has(self, result: Result) -> bool:
        if result.kind == "figure" and _image_of(result)[1] not in self._shown_images():
            return False
        with tempfile.TemporaryDirectory(prefix="noether-") as place:
            copy = self._client.download_artifacts(self._run_id, result.file, place)
            return hashlib.sha256(Path(copy).read_bytes()).hexdigest() == result.sha256

    def _list(self, folder: str) -> Sequence[FileInfo]:
        listed: Sequence[FileInfo] = self._client.list_artifacts(self._run_id, folder)
        return listed

    def _shown_images(self) -> set[tuple[str, int]]:
        if self._images is None:
            listed = (_IMAGE.fullmatch(item.path) for item in self._list("images"))
            self._images = {(found[1], int(found[2])) for found in listed if found}
        return self._images


def _image_of(result: Result) -> tuple[str, tuple[str, int]]:
    """Return the key of a figure's image, and that with its step as the name of the image has them."""
    key = result.key if _IMAGE_KEY.fullmatch(result.key) else PurePosixPath(result.file).parent.name
    return key, (key.replace("/", "~"), result.update)


_LOGGER = logging.getLogger(__name__)
_REFUSED = "INVALID_PARAMETER_VALUE"
_TOO_MANY = 20
"""Number of refused values after which the store is assumed to refuse all of them."""


class MetricSender(_OfOneRun):
    """Send values to one MLflow run, and leave out values that MLflow refuses.

    Attributes:
        refused: Number of values left out.
        largest: Number of values that one request may hold; a server that takes less lowers it.
    """

    refused = 0
    largest = MAX_METRICS

    def send(self, metrics: Sequence[Metric]) -> None:
        """Send the values in one request; if it is refused or too large, send its halves, down to single values.

        Raises:
            MlflowException: if the store cannot be reached, or refuses the run as a whole.
            RequestTooLargeError: if not even one value is small enough.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self._run_id, metrics=metrics, synchronous=True)
        except RequestTooLargeError:
            if len(metrics) == 1:
                raise
            self.largest = max(1, len(metrics) // 2)
            _in_halves(metrics, self.send)
        except MlflowException as error:
            if error.error_code != _REFUSED:
                raise
            if len(metrics) > 1:
                _in_halves(metrics, self.send)
                return
            if self.refused >= _TOO_MANY or self._client.get_run(self._run_id).info.lifecycle_stage == "deleted":
                raise
            self.refused += 1
            _LOGGER.warning("MLflow refused %s = %r: %s", metrics[0].key, metrics[0].value, error.message[:200])


def _in_halves(values: Sequence[_Value], send: Callable[[Sequence[_Value]], None]) -> None:
    middle = len(values) // 2
    send(values[:middle])
    send(values[middle:])


def send_params(client: MlflowClient, run_id: str, params: Sequence[Param]) -> None:
    """Send parameters in one request, or in halves if that is too large for the server."""
    try:
        client.log_batch(run_id, params=params, synchronous=True)
    except RequestTooLargeError:
        if len(params) == 1:
            raise
        _in_halves(params, partial(send_params, client, run_id))
