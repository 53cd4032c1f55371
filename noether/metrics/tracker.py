"""BaseTracker: delivers a run to a tracking server, a database or a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

from noether.config.components import TrackerBaseConfig
from noether.errors import NoetherError
from noether.metrics.metrics_file import MetricRecord

RunStatus: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]
"""The end of a run: by itself (early stops included), by an error, by a signal."""


class BaseTracker(ABC):
    """Base of all trackers: shows the metrics of a run on a server, in a database or in a file.

    A `TrackerFeed` calls all methods, on a thread of its own, so they may block; a call that raises is tried again,
    and the error never reaches the training. The constructor must be cheap and use no network: it checks the config.

    Args:
        tracker_config: The tracker's table in the spec.
    """

    wants_metrics: ClassVar[bool] = True
    """False for a tracker that keeps nothing; it gets no thread."""

    patience_s: float = 4.0
    """Seconds that the start of training waits for `open`, to print the address; a required tracker gets longer."""

    def __init__(self, tracker_config: TrackerBaseConfig) -> None:
        self.tracker_config = tracker_config

    @abstractmethod
    def open(self, run: RunDescription) -> None:
        """Start the run at the tracker, or continue the one that `run.reference` names.

        Called again after it failed, so a half-done opening must not leave a second run behind.

        Raises:
            TrackerRefusedError: if trying again is useless.
        """

    @abstractmethod
    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Deliver these records; called again with the same ones after it raised."""

    def undelivered(self, records: Sequence[MetricRecord]) -> Sequence[MetricRecord]:
        """Return those of the records that have not arrived yet.

        Called after `open` with the records that were in flight when the process died. A tracker that cannot look them
        up returns all of them, and may show some twice.
        """
        return records

    @abstractmethod
    def close(self, status: RunStatus, error: str | None) -> None:
        """End the run at the tracker.

        Args:
            status: The end of the run.
            error: Text of the error, for a run that failed.
        """

    def log_artifact(self, path: Path, folder: str = "") -> None:  # noqa: B027  # optional on purpose
        """Keep a copy of the file `path` with the run, below `folder`; a tracker without files ignores it."""

    @property
    def reference(self) -> dict[str, str]:
        """Values from which `open` can continue this run in a later attempt.

        They name the run: if they change, the tracker gets everything from the beginning. Before `open` they may
        say where the run will be.
        """
        return {}

    @property
    def url(self) -> str | None:
        """Address of the run's page; None before `open`, and if it has none."""
        return None

    @property
    def description(self) -> str:
        """Place of the run, for a terminal."""
        return self.url or self.tracker_config.kind or type(self).__name__


@dataclass(frozen=True, slots=True)
class RunDescription:
    """Description of a run, given to its tracker when that opens it.

    Attributes:
        run_id: Id of the run, which is also the name of its folder.
        name: The spec's `name`.
        run_dir: The run folder.
        params: The resolved spec, flattened: `{"trainer.callbacks.0.kind": "ema"}`.
        tags: Other facts about the run, such as versions of plugins.
        spec_path: The spec as given; None if it was not a file.
        resolved_spec_path: The resolved spec in the run folder.
        summary: A few lines of Markdown for the run's page.
        reference: `BaseTracker.reference` of an earlier attempt at this run; empty at the first.
        attempt: Number of this attempt, from 1.
        facts: User, host, pid, version and git commit of the process that trains.
        token: A text that is unique to this run and the same in all its attempts: marks everything created for it.
        started: Start of the run in seconds since 1970; None if it starts now.
        ended: End of the run in seconds since 1970; None if it has not ended yet.
    """

    run_id: str
    name: str
    run_dir: Path
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    spec_path: Path | None = None
    resolved_spec_path: Path | None = None
    summary: str = ""
    reference: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    facts: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    started: float | None = None
    ended: float | None = None


class TrackerError(NoetherError):
    """The tracker cannot be reached, or a request failed."""


class TrackerRefusedError(TrackerError):
    """The tracker refused for good (wrong credentials, a deleted experiment); do not try again."""
