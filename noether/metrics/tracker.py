"""BaseTracker: delivers a run to a tracking server, a database or a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from noether.config.components import TrackerBaseConfig
from noether.errors import NoetherError
from noether.metrics.metrics_file import MetricRecord
from noether.metrics.results import Result

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame

RunStatus: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]
"""The end of a run: by itself (early stops included), by an error, by a signal."""


class BaseTracker(ABC):
    """Base of all trackers: shows the metrics of a run on a server, in a database or in a file.

    A `TrackerFeed` calls all methods, on a thread of its own, so they may block; a call that raises is tried again,
    and the error never reaches the training. The constructor must be cheap and use no network: it checks the config.
    """

    wants_metrics: ClassVar[bool] = True
    """False for a tracker that keeps nothing; it gets no thread."""

    address_field: ClassVar[str | None] = None
    """Config field that names the server or database; `noether tracker sync` takes its value from the user only."""

    portable_fields: ClassVar[frozenset[str]] = frozenset()
    """Config fields that `noether tracker sync` takes from a run folder: those that name no place."""

    wants_report: bool = False
    """True for a tracker that shows the report of a run, which `log_artifact` then gets as `report.html` at its end."""

    wants_model: bool = False
    """True for a tracker that keeps the trained model, which `log_model` then gets once the run has finished."""

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
            TrackerSettingError: if the user has to change a setting; the run ends before training.
        """

    @abstractmethod
    def log_metrics(self, records: Sequence[MetricRecord]) -> None:
        """Deliver these records; called again with the same ones after it raised."""

    def undelivered(self, records: Sequence[MetricRecord]) -> Sequence[MetricRecord]:
        """Return those of the records that have not arrived yet.

        Called after `open` with all records of the updates in doubt: those in flight when a process died or a request
        failed, and those that a resumed run computes again. A point is identified by its key and update, not by its
        value, because timings differ from attempt to attempt. A tracker that cannot look points up returns all of
        them, and may show some twice.
        """
        return records

    def newest_update(self) -> int | None:
        """Return the newest update that has arrived, -1 if none has; None if the tracker cannot look that up."""
        return None

    def logged(self, keys: Collection[str]) -> Mapping[str, Mapping[int, Sequence[float]]] | None:
        """Return the values that have arrived, by metric key and update; None if the tracker cannot look them up.

        A key or update without a value is left out. `noether tracker sync --verify` compares them with the run's file.
        """
        return None

    def results_missing(self, results: Sequence[Result]) -> Sequence[Result] | None:
        """Return those of the run's results that the tracker lacks or has otherwise; None if it cannot look them up.

        `noether tracker sync --verify` asks for it. A result that it leaves out on purpose is not missing.
        """
        return None

    def takes(self, value: float) -> bool:
        """Return True if this value is shown; False if it is left out on purpose."""
        return True

    def shows(self, key: str) -> bool:
        """Return True if it keeps every point of this metric; False if it shows the value in another form."""
        return True

    def rounded(self, value: float) -> float:
        """Return a value as the tracker keeps it, which is what `logged` has: float64 as it is, unless overridden."""
        return value

    @abstractmethod
    def close(self, status: RunStatus, error: str | None) -> None:
        """End the run at the tracker.

        Args:
            status: The end of the run.
            error: Text of the error, for a run that failed.
        """

    def log_result(self, result: Result, path: Path) -> None:
        """Show a figure, table, histogram or file of the run; by default as a file, see `log_artifact`.

        Called again with the same one after it raised, or the process died: its key and update identify it.

        Args:
            result: Its key, kind and place in the training.
            path: A copy of its file, which is removed afterwards.
        """
        self.log_artifact(path, str(PurePosixPath(result.file).parent))

    def log_artifact(self, path: Path, folder: str = "") -> None:  # noqa: B027  # optional on purpose
        """Keep a copy of the file `path` with the run, below `folder`; a tracker without files ignores it."""

    def describe(self, text: str) -> None:  # noqa: B027  # optional on purpose
        """Show a description of the run in Markdown, with its results; called before `close`."""

    def log_model(self, model: PackedModel) -> None:  # noqa: B027  # optional on purpose
        """Keep the trained model; called before `close`, and again with the same one after it raised."""

    def forget(self, run: RunDescription) -> bool | None:
        """Remove the run that was created for `run`, and nothing else; called without `open`.

        `noether runs delete` asks for it. `run` holds what the folder says: the tracker must compare id and token with
        what it has kept itself, since the folder may be a copy of another one.

        Returns:
            True if it was removed, False if the tracker has no such run, None if this tracker removes none.

        Raises:
            TrackerError: if the tracker cannot be reached.
        """
        return None

    @property
    def reference(self) -> dict[str, str]:
        """Values from which `open` can continue this run in a later attempt.

        They name the run: if they change, the tracker gets everything from the beginning. Before `open` they may
        say where the run will be. `address` stands in it under the key `store`.
        """
        return {}

    @property
    def address(self) -> str | None:
        """Server or database that gets the run, without a password; None if the tracker sends nothing anywhere."""
        return None

    @property
    def url(self) -> str | None:
        """Address of the run's page; None before `open`, and if it has none."""
        return None

    @property
    def description(self) -> str:
        """Place of the run, for a terminal."""
        return self.url or self.tracker_config.kind or type(self).__name__


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """A data set of a run.

    Attributes:
        key: Its key in the spec.
        kind: Its kind.
        digest: Digest of its content, or of a part of it.
        samples: Number of samples.
        source: Its table of the spec as JSON.
        properties: Shape and type of each property of a sample: `{"image": [[1, 8, 8], "float32"]}`.
    """

    key: str
    kind: str
    digest: str
    samples: int
    source: str
    properties: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackedModel:
    """A trained model with its transforms, as files without pickles.

    Attributes:
        folder: Folder with spec and weights, which is removed after the delivery.
        code: Python file that loads the folder and predicts.
        name: Name of the model.
        checkpoint: Name of its checkpoint in the folder.
        update: Update of its weights.
        example: Inputs of a few samples, by property, in the units of the data.
        fields: The predictions for them, by field.
        rows: Example and prediction as tables, if the model takes tables in place of properties.
        requirements: Packages that it needs, with versions, as pip has them.
        facts: Other facts, such as the checkpoint.
    """

    folder: Path
    code: Path
    name: str
    checkpoint: str
    update: int
    example: Mapping[str, NDArray[Any]]
    fields: Mapping[str, NDArray[Any]]
    requirements: Sequence[str]
    facts: Mapping[str, str]
    rows: tuple[DataFrame, DataFrame] | None = None


@dataclass(frozen=True, slots=True)
class RunDescription:
    """Description of a run, given to its tracker when that opens it.

    Attributes:
        run_id: Id of the run, which is also the name of its folder.
        name: The spec's `name`.
        run_dir: The run folder.
        params: The resolved spec, flattened: `{"trainer.callbacks.0.kind": "ema"}`; values that differ from the
            defaults come first.
        tags: Other facts about the run, such as versions of plugins.
        spec_path: The spec as given; None if it was not a file.
        resolved_spec_path: The resolved spec in the run folder.
        summary: A few lines of Markdown for the run's page.
        datasets: The data sets.
        reference: `BaseTracker.reference` of an earlier attempt at this run; empty at the first.
        attempt: Number of this attempt, from 1.
        facts: User, host, pid, version and git commit of the process that trains.
        token: A text that is unique to this run and the same in all its attempts: marks everything created for it.
        started: Start of the run in seconds since 1970; None if it starts now.
        ended: End of the run in seconds since 1970; None if it has not ended yet.
        resumed_update: Update of the checkpoint from which this attempt continues; None if it does not train.
        may_differ: True if this attempt may log other values than an earlier one for the same updates, because an
            older checkpoint was chosen.
        mathematics: Digest of the settings that decide about the values; empty if unknown.
        continues: `BaseTracker.reference` of the run whose points this one replaces; it stays as it is.
        summarise: Returns the summary with the results, for the status of the run's end; None if there is none.
    """

    run_id: str
    name: str
    run_dir: Path
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    spec_path: Path | None = None
    resolved_spec_path: Path | None = None
    summary: str = ""
    datasets: Sequence[DatasetFacts] = ()
    reference: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    facts: Mapping[str, str] = field(default_factory=dict)
    token: str = ""
    started: float | None = None
    ended: float | None = None
    resumed_update: int | None = None
    may_differ: bool = False
    mathematics: str = ""
    continues: Mapping[str, str] = field(default_factory=dict)
    summarise: Callable[[RunStatus], str] | None = None


class TrackerError(NoetherError):
    """The tracker cannot be reached, or a request failed.

    Args:
        message: The problem.
        hint: The remedy.
        retry_after_s: Seconds that the tracker wants to be left alone.
    """

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class TrackerRefusedError(TrackerError):
    """The tracker refused for good (wrong credentials, a deleted experiment); do not try again."""


class TrackerSettingError(TrackerRefusedError):
    """A setting of the user names a run or a place that cannot be used; the run ends instead of being lost there."""

    exit_code = 2
