"""BaseTracker: the way from the metrics of a run to a tracking server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from noether.config.components import TrackerBaseConfig
from noether.errors import NoetherError
from noether.metrics.metrics_file import MetricRecord


class TrackerError(NoetherError):
    """The tracker cannot be reached, or did not do what it was asked to."""


class TrackerRefusedError(TrackerError):
    """The tracker will say the same again (wrong credentials, a deleted experiment); do not ask again."""


def flatten_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return every value of a spec under its dotted path: `{"trainer.callbacks.0.kind": "ema"}`.

    Lists of plain values stay one parameter (`[256, 256]`), lists of tables are counted from 0; what is None
    is left out.
    """
    return dict(_walk("", spec))


def _walk(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _walk(f"{path}.{name}" if path else str(name), item)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _walk(f"{path}.{index}", item)
    elif value is not None and path:
        yield path, str(value)


RunStatus: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ended: by itself (early stops included), by an error, by a signal."""


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What a tracker is told about a run when it opens it.

    Attributes:
        run_id: The run's id, which is also the name of its folder.
        name: The spec's `name`.
        run_dir: The run's folder.
        params: The resolved spec, flattened: `{"trainer.callbacks.0.kind": "ema"}`.
        tags: Facts about the run that are no parameters, such as versions of plugins.
        spec_path: The spec as given, where there is a file.
        resolved_spec_path: The resolved spec in the run's folder.
        summary: A few lines of Markdown for whoever opens the run's page.
        reference: What `BaseTracker.reference` was in an earlier attempt at this run; empty at the first.
        attempt: Which start of this run it is, from 1.
        facts: User, host, pid, version and git commit of the process that trains.
        token: A text that no other run has, the same in all attempts: marks what was created for this run.
        started: When the run began, in seconds since 1970, where it is delivered later than that.
        ended: When it ended, where it has ended already: it is not running any more when it is opened.
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


class BaseTracker(ABC):
    """Shows a run's metrics somewhere: in a database, on a server, in a file.

    A `TrackerFeed` calls all methods, on a thread of its own, so they may block; what they raise is retried
    and never reaches the training. Constructing a tracker must be cheap and touch no network: it checks what
    can be known from its config alone.

    Args:
        tracker_config: The tracker's table in the spec.
    """

    wants_metrics: ClassVar[bool] = True
    """False for a tracker that keeps nothing; it is not fed then, which saves the thread."""

    patience_s: float = 4.0
    """How long the start of training waits for `open`, to say where to look; a required tracker gets longer."""

    def __init__(self, tracker_config: TrackerBaseConfig) -> None:
        self.tracker_config = tracker_config

    @abstractmethod
    def open(self, run: RunDescription) -> None:
        """Start the run on the other side, or continue the one that `run.reference` names.

        Called again after it failed, so a half-done opening must not leave a second run behind.

        Raises:
            TrackerRefusedError: If trying again is useless.
        """

    @abstractmethod
    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Deliver these records; called again with the same ones after it raised."""

    def undelivered(self, records: Sequence[MetricRecord]) -> Sequence[MetricRecord]:
        """Return what of these records is not there yet.

        Asked, after `open`, for records that were on their way when the process died, so that nobody knows whether they
        arrived. One that cannot look it up returns all of them, and may show some twice.
        """
        return records

    @abstractmethod
    def close(self, status: RunStatus, error: str | None) -> None:
        """End the run on the other side.

        Args:
            status: How the run ended.
            error: The text of what ended it, for a run that failed.
        """

    def log_artifact(self, path: Path, folder: str = "") -> None:  # noqa: B027  # optional on purpose
        """Keep a copy of the file `path` with the run, below `folder`; a tracker without files ignores it."""

    @property
    def reference(self) -> dict[str, str]:
        """What `open` needs to continue this run in a later attempt.

        It names the run: after another one than before, the tracker gets everything from the beginning. Before
        `open` it may say where the run will be.
        """
        return {}

    @property
    def url(self) -> str | None:
        """The address of the run's page, once it is open and where there is one."""
        return None

    @property
    def description(self) -> str:
        """Where to look at the run, in words for a terminal."""
        return self.url or self.tracker_config.kind or type(self).__name__
