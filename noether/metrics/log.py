"""LogWriter: callbacks add metrics, the boundary writes them as one line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from noether.checkpoint.manifest import FileRecord
from noether.config.metric_facts import MetricPropertyProvider
from noether.errors import StorageError, TrainingError
from noether.kernel.names import has_control
from noether.kernel.progress import UpdateCounter
from noether.metrics.device import LateReads, Transfer
from noether.metrics.figures import content_of, encoded, size_of
from noether.metrics.metrics_file import AppendOnlyFile, MetricRecord, MetricsFile
from noether.metrics.results import Limits, ResultsFile
from noether.metrics.values import (
    NONSCALARS,
    MetricSummary,
    MissingMetricError,
    Round,
    encode_nonscalar,
    own_nonscalar,
    own_scalar,
)


class LogWriter:
    """Collect the metrics of a round and write them at its boundary; callbacks use it as `self.writer`.

    Adding never waits for the device: a tensor on an accelerator stays there until it is read or the boundary comes.
    Then all tensors are sent to the host in one copy, and the line is written when they have arrived. A key that is
    added twice in a round keeps its last value.

    Reading (`current`, `keys`, `current_metrics`) sees the round so far. A view from `below` has a prefix: its keys
    are relative to it, for reading and writing alike.

    Args:
        metrics_file: The file of the lines; None on ranks that do not write.
        metric_property_provider: Decides which metrics have a best value; without it `best_metrics` stays empty.
        limits: Most results that are kept.

    Attributes:
        prefix: Text before every key of this view; empty for the run's own writer.
        round: The metrics added since the last line.
        late: Lines whose values are on their way from a device, and flags between them.
        followed: Keys of metrics that schedules follow, None for all: a round that has one is written at once.
        on_metrics: Called with the completed updates and the metrics of each line; schedules follow them.
        on_written: Called with the metrics of each line; a tracker feed is notified through it.
        is_repaired: True if a file was damaged when the state was restored.
    """

    def __init__(
        self,
        metrics_file: MetricsFile | None,
        metric_property_provider: MetricPropertyProvider | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.metrics_file = metrics_file
        self.prefix = ""
        self.round = Round()
        self.late = LateReads()
        self.followed: frozenset[str] | None = frozenset()
        self.on_metrics: list[Callable[[int, Mapping[str, float]], object]] = []
        self.on_written: list[Callable[[Mapping[str, float]], object]] = []
        self._summary = MetricSummary(metric_property_provider)
        self._files: dict[str, AppendOnlyFile] = {}
        if metrics_file is not None:
            folder, run = metrics_file.path.parent, metrics_file.run
            self._nonscalars_file = AppendOnlyFile(folder / NONSCALARS, run)
            self._results_file = ResultsFile(folder, run, limits)
            self._files = {"metrics": metrics_file, "nonscalars": self._nonscalars_file, "results": self._results_file}
        self.is_repaired = False
        self._written_at = 0.0

    @property
    def final_metrics(self) -> dict[str, float]:
        """The last value of every key of the run; waits for values that are on their way from a device."""
        self.late.settle()
        return dict(self._summary.final)

    @property
    def written_metrics(self) -> dict[str, float]:
        """The last value of every key in the lines that are written so far; never waits."""
        return dict(self._summary.final)

    @property
    def best_metrics(self) -> dict[str, float]:
        """The best finite value of every key of the run whose direction is known; waits as `final_metrics`."""
        self.late.settle()
        return dict(self._summary.best)

    def add_scalar(
        self, key: str, value: Any, logger: logging.Logger | None = None, format_str: str | None = None
    ) -> None:
        """Add a metric to this round.

        Args:
            key: Metric key; its parts are separated by slashes.
            value: A number, or a tensor or array with one element.
            logger: Also prints `key: value` through this logger at the boundary.
            format_str: Format of the printed value, for example `".2f"`.

        Raises:
            TrainingError: if the key is not a string or the value not a scalar.
        """
        if (type(key) is not str and not isinstance(key, str)) or not key:  # no call for a plain text
            raise TrainingError(f"wrong metric key: found {key!r}, expected a non-empty string")
        key = self.prefix + key
        if not key.isprintable() and has_control(key):
            raise TrainingError(f"wrong metric key: found {key!r}, expected no control characters")
        added = self.round
        added.scalars[key] = value if type(value) is float else own_scalar(key, value)
        added.has_values = True
        if added.counts:
            added.counts.pop(key, None)
        if logger is not None:
            added.printed[key] = (logger, format_str or ".6g")

    def add_mean(self, key: str, mean: float | Tensor, count: Tensor, logger: logging.Logger | None = None) -> None:
        """Add a mean whose number of values only the device knows; it is left out if there were none.

        Args:
            key: Metric key.
            mean: The mean.
            count: Number of its values.
            logger: As in `add_scalar`.
        """
        self.add_scalar(key, mean, logger)
        self.round.counts[self.prefix + key] = own_scalar(key, count)

    def add_nonscalar(self, key: str, value: Any) -> None:
        """Add an array, a histogram or a table to this round; it goes to `nonscalars.jsonl`.

        Args:
            key: Its key.
            value: Numbers, strings, tensors and arrays, and lists and dicts of them.

        Raises:
            TrainingError: if the key is not a string, or the value holds anything else.
        """
        if not isinstance(key, str) or not key:
            raise TrainingError(f"wrong key of a non-scalar: found {key!r}, expected a non-empty string")
        self.round.nonscalars[self.prefix + key] = own_nonscalar(key, value)
        self.round.has_values = True

    def add_figure(self, key: str, figure: Any) -> None:
        """Add a picture to this round, drawn now.

        Figures, tables, histograms and files are kept in `results/` of the run folder, listed in `results.jsonl` with
        their update, and sent to the trackers. Of two with one key in a round the last is kept.

        Args:
            key: Its key, as that of a metric.
            figure: A matplotlib figure, a Pillow image, or an array or tensor of shape (height, width) or (height,
                width, 3 or 4): floating-point numbers from 0 to 1, or whole ones up to 255.

        Raises:
            TrainingError: if it is anything else, or cannot be drawn.
        """
        self._add_result("figure", key, figure)

    def add_table(self, key: str, rows_or_columns: Any) -> None:
        """Add a table to this round; see `add_figure`.

        Args:
            key: Its key.
            rows_or_columns: A dict of columns, a list of rows that are dicts, or a pandas DataFrame without its index.
                A column has numbers, booleans or texts, and None for missing ones.

        Raises:
            TrainingError: if it is anything else.
        """
        self._add_result("table", key, rows_or_columns)

    def add_histogram(self, key: str, values: Any, bins: Any = 64) -> None:
        """Add the histogram of a tensor to this round, counted on its device without waiting; see `add_figure`.

        Args:
            key: Its key.
            values: Numbers of any shape. Those that are not finite, or outside of given edges, are counted apart.
            bins: Number of equal bins from the lowest to the highest value, or their edges.

        Raises:
            TrainingError: if it is not of numbers, or the bins are not increasing.
        """
        self._add_result("histogram", key, values, bins)

    def add_file(self, key: str, path: str | Path) -> None:
        """Add a copy of a file to this round; see `add_figure`.

        Args:
            key: Its key.
            path: The file, which may change or go afterwards.

        Raises:
            TrainingError: if it cannot be read.
        """
        self._add_result("file", key, path)

    def _add_result(self, kind: str, key: str, *given: Any) -> None:
        if not isinstance(key, str) or not key or has_control(key):
            expected = "a non-empty string without control characters"
            raise TrainingError(f"wrong key of a {kind}: found {key!r}, expected {expected}")
        key = self.prefix + key
        if self.metrics_file is not None and self._results_file.takes(key, size_of(kind, *given)):
            self.round.results[key] = encoded(kind, key, *given)
            self.round.has_values = True

    def below(self, prefix: str) -> LogWriter:
        """Return a view of this writer that puts `prefix` before every key that it adds or reads.

        A nested callback is given one (`ema=0.999/`), so that it works the same as a callback of the run.
        """
        return _View(self, prefix)

    def current(self, key: str) -> float:
        """Return a metric of this round; waits for the device if it is a tensor there.

        Raises:
            MissingMetricError: if it was not logged in this round; lists the keys that were.
        """
        scalars = self.round.scalars
        if self.prefix + key not in scalars:
            raise MissingMetricError(key, self.keys())
        if isinstance(scalars[self.prefix + key], Tensor):
            self.round.read()
        if self.prefix + key not in scalars:  # a mean over nothing
            raise MissingMetricError(key, self.keys())
        return float(scalars[self.prefix + key])

    def keys(self) -> list[str]:
        """Return the keys of this round below the prefix, in the order in which they were added."""
        if self.round.counts:
            self.round.read()
        return [key.removeprefix(self.prefix) for key in self.round.scalars if key.startswith(self.prefix)]

    def current_metrics(self) -> dict[str, float]:
        """Return all metrics of this round below the prefix; waits for the device if one is a tensor there."""
        return {key: self.current(key) for key in self.keys()}

    def flush(self, update_counter: UpdateCounter, *, waits: bool = True) -> None:
        """End the round: write its line and start an empty one. Writes nothing if nothing was added.

        Args:
            update_counter: Completed updates, epochs and samples.
            waits: Write it now. Otherwise a round with values on a device is written, in order, once they have
                arrived: see `LateReads`.

        Raises:
            StorageError: if the disk is full or refuses; the round is kept and can be flushed again.
        """
        if waits and self.late.waiting:
            self.late.settle()
        if not self.round.has_values:
            return
        # Trackers want times that never go back, and the machine's clock may be set back while a run trains.
        now = self._written_at = max(self._written_at, time.time())
        at, line = update_counter, self.round
        is_here = not line.has_tensors
        if waits or (is_here and not self.late.waiting) or self._is_followed():
            if self.late.waiting:
                self.late.settle()
            if not is_here:
                line.read()
            self._end(line, MetricRecord(at.update, at.epoch, at.sample, now, line.scalars))  # type: ignore[arg-type]  # no tensors are left
            return
        line, transfer = line.moved(), Transfer()
        take = line.send(transfer)
        record = MetricRecord(at.update, at.epoch, at.sample, now, line.scalars)  # type: ignore[arg-type]  # as above, once they have arrived
        self.late.add(transfer, partial(self._end, line, record, take))

    def _is_followed(self) -> bool:
        """Return True if a schedule has to see a metric of this round before the next update."""
        return self.followed is None or not self.followed.isdisjoint(self.round.scalars)

    def _end(self, line: Round, record: MetricRecord, take: Callable[[], None] | None = None) -> None:
        """Write a line, forget it, and tell those who follow.

        Args:
            line: The round.
            record: Its place in the training, and its scalars.
            take: Takes values that were sent to the host; None if they are there.
        """
        if not line.has_values:  # it is written, and one of those who follow has raised an error
            return
        if take is not None:
            take()
        metrics, printed = record.metrics, line.printed
        self._write(line, record)
        line.clear()
        for key, (logger, format_str) in printed.items():
            if key in metrics:
                logger.info("%s: %s", key, format(metrics[key], format_str))
        self._summary.add(metrics)
        for read in self.on_metrics:
            read(record.update, metrics)
        for notify in self.on_written:
            notify(metrics)

    def discard(self) -> None:
        """Forget this round, because it was interrupted and will be repeated."""
        self.round.clear()

    def state_dict(self) -> dict[str, int]:
        """Wait until all lines are on the disk, and return the lengths of the files.

        Raises:
            StorageError: if the disk refuses.
        """
        self.late.settle()
        for file in self._files.values():
            file.sync()
        return {name: file.offset for name, file in self._kept().items()}

    def written(self) -> dict[str, FileRecord]:
        """Return length and hash of each file by name; call it after `state_dict`."""
        return {file.path.name: file.written() for file in self._kept().values()}

    def _kept(self) -> dict[str, AppendOnlyFile]:
        """Return the files of a state; a run without results saves the state that it had before there were any."""
        return {name: file for name, file in self._files.items() if file.offset or name != "results"}

    def load_state_dict(
        self, state: Mapping[str, int], written: Mapping[str, FileRecord] | None = None, update: int | None = None
    ) -> None:
        """Cut the files back to a saved state, and read the final and best values from the lines that remain.

        The state of a writer without files cuts nothing. A damaged file is repaired, see `AppendOnlyFile.restore`.

        Args:
            state: The state.
            written: What `written` returned when it was saved; None if it is unknown.
            update: Completed updates at that time.

        Raises:
            StorageError: if the disk refuses.
        """
        self.discard()
        self.late.forget()
        self._summary.clear()
        if self.metrics_file is None:
            return
        offsets = {"results": 0, **state}  # a run without results has no offset of theirs
        for name, file in self._files.items() if state else ():
            self.is_repaired |= not file.restore(offsets[name], (written or {}).get(file.path.name), update)
        for record in self.metrics_file.read():
            self._summary.add(record.metrics)

    def require_own(self, check: Callable[[], object]) -> None:
        """Call `check` before a file is opened or cut; it raises an error if the run has another owner."""
        for file in self._files.values():
            file.require_own = check

    def close(self) -> None:
        """Close the files; a round that was not flushed is lost."""
        for file in self._files.values():
            file.close()

    def _write(self, line: Round, record: MetricRecord) -> None:
        """Write the lines of a round to all files, or to none of them."""
        if self.metrics_file is None:
            return
        if not line.nonscalars and not line.results:
            if record.metrics:
                self.metrics_file.append(record)
            return
        before = {file: file.offset for file in (self._nonscalars_file, self._results_file)}
        try:
            if line.nonscalars:
                encoded_lines = (encode_nonscalar(record, key, value) for key, value in line.nonscalars.items())
                self._nonscalars_file.write(b"".join(encoded_lines))
            if line.results:
                self._results_file.keep(record, {key: content_of(result) for key, result in line.results.items()})
            if record.metrics:
                self.metrics_file.append(record)
        except StorageError:
            for file, offset in before.items():
                file.truncate(offset)
            raise


class _View(LogWriter):
    """A log writer below a prefix; everything but the prefix is that of its owner, also if it changes later."""

    def __init__(self, owner: LogWriter, prefix: str) -> None:
        self._owner = owner
        self.prefix = owner.prefix + prefix
        self.round = owner.round  # never replaced; held here because each metric that is added needs it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)
