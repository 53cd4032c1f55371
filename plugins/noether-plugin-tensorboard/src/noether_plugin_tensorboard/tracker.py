"""The tracker `tensorboard`."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from noether.config.components import TrackerBaseConfig
from noether.core.trackers import (
    BaseTracker,
    MetricRecord,
    Result,
    RunDescription,
    RunStatus,
    TrackerError,
    TrackerSettingError,
)

if TYPE_CHECKING:
    from noether_plugin_tensorboard.events import EventFile

_PARAMETERS = "parameters"


class TensorboardTrackerConfig(TrackerBaseConfig):
    """Options of `tensorboard`."""

    folder: str | None = Field(
        None,
        min_length=1,
        examples=["logs"],
        description="Folder that gets one folder of event files a run. Unset: `tensorboard` in the folder of the run.",
    )


class TensorboardTracker(BaseTracker):
    """Shows a run in TensorBoard: metrics, figures, histograms, tables, and the resolved spec as text.

    A point is its tag and step. A resumed run adds those that the event files do not have, so nothing is there twice.
    """

    address_field: ClassVar[str | None] = "folder"

    tracker_config: TensorboardTrackerConfig

    def __init__(self, tracker_config: TensorboardTrackerConfig) -> None:
        super().__init__(tracker_config)
        self.folder: Path | None = None
        self._name = ""
        self._events: EventFile | None = None
        self._points: set[tuple[str, int]] = set()

    def open(self, run: RunDescription) -> None:
        """Begin a file of events beside those of earlier attempts, and read which points they have."""
        from noether_plugin_tensorboard.events import EventFile, parameters, points_in

        # One that replaces another run, which stays as it is, has a name of its own.
        suffix = f"-{run.token[:8]}" if run.continues else ""
        place = self.address
        self._name = f"tensorboard{suffix}" if place is None else f"{run.run_id}{suffix}"
        self.folder = (run.run_dir if place is None else Path(place)) / self._name
        if place is None and self.folder.is_symlink():
            raise TrackerSettingError(
                f"{self.folder} is a link, which may come from a stranger",
                hint='remove it, or name a folder of yours: folder = "logs" in the table of the tracker',
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._points = points_in(self.folder)
        self._events = EventFile(self.folder)
        if (_PARAMETERS, 0) not in self._points:
            self._events.add([(0, run.started or time.time(), [parameters(_PARAMETERS, run.params)])])

    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Write the points that are not there yet."""
        from noether_plugin_tensorboard.events import scalar

        new = self.undelivered(records)
        self._file.add(
            (record.update, record.time, [scalar(key, value) for key, value in record.metrics.items()])
            for record in new
        )
        self._points |= {(key, record.update) for record in new for key in record.metrics}

    def log_result(self, result: Result, path: Path) -> None:
        """Write a figure, a histogram or a table, unless it is there; TensorBoard has no place for other files."""
        from noether_plugin_tensorboard import events

        point = (result.key, result.update)
        if point in self._points or result.kind == "file":
            return
        if result.kind == "figure":
            value = events.image(result.key, path.read_bytes())
        else:
            body = json.loads(path.read_text("utf-8"))
            is_table = result.kind == "table"
            value = (
                events.table(result.key, body["columns"], body["data"])
                if is_table
                else events.histogram(result.key, body["edges"], body["counts"])
            )
        self._file.add([(result.update, result.time, [value])])
        self._points.add(point)

    def undelivered(self, records: Sequence[MetricRecord]) -> Sequence[MetricRecord]:
        """Return the points of these records that the event files do not have."""
        left = [
            replace(
                record,
                metrics={
                    key: value for key, value in record.metrics.items() if (key, record.update) not in self._points
                },
            )
            for record in records
        ]
        return [record for record in left if record.metrics]

    def newest_update(self) -> int | None:
        """Return the newest update that the event files have."""
        return max((step for tag, step in self._points if tag != _PARAMETERS), default=-1)

    def logged(self, keys: Collection[str]) -> Mapping[str, Mapping[int, Sequence[float]]] | None:
        """Return the values in the event files, as they are there now."""
        from noether_plugin_tensorboard.events import scalars_in

        found = {} if self.folder is None else scalars_in(self.folder)
        return {key: found[key] for key in keys if key in found}

    def rounded(self, value: float) -> float:
        """Return a value in the 32 bits that TensorBoard keeps of it."""
        from noether_plugin_tensorboard.events import scalar

        return scalar("", value).simple_value

    def results_missing(self, results: Sequence[Result]) -> Sequence[Result] | None:
        """Return the results that the event files lack; what they have is whole, by the checksum of each event."""
        from noether_plugin_tensorboard.events import points_in

        self._points = set() if self.folder is None else points_in(self.folder)
        return [
            result for result in results if result.kind != "file" and (result.key, result.update) not in self._points
        ]

    def close(self, status: RunStatus, error: str | None) -> None:
        """Do nothing: everything is written, and TensorBoard shows no status."""

    @property
    def address(self) -> str | None:
        """The folder that the spec names; None for the run folder."""
        folder = self.tracker_config.folder
        return None if folder is None else str(Path(folder).absolute())

    @property
    def reference(self) -> dict[str, str]:
        """The folder of the event files, so that a later attempt continues in it."""
        place = self.address
        return ({} if place is None else {"store": place}) | ({"name": self._name} if self._name else {})

    @property
    def description(self) -> str:
        """The command that shows the run."""
        return f"tensorboard --logdir {self.folder}" if self.folder else "TensorBoard"

    @property
    def _file(self) -> EventFile:
        if self._events is None:
            raise TrackerError("the event file is not open yet")
        return self._events
