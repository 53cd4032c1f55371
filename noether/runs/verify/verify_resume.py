"""`noether verify-resume`: the same run straight and interrupted, compared bit by bit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from noether.checkpoint.paths import PathProvider
from noether.errors import TrainingError, UsageError
from noether.kernel.participant import Participant
from noether.kernel.progress import UpdateCounter
from noether.runs.execution import Execution
from noether.runs.outcome import Outcome, describe
from noether.runs.prepare import preparation, rehearsal
from noether.runs.verify.compare import Attempt, Compared, Comparison
from noether.runs.verify.interruption import Interruption
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.model import RunSpec

_SHORT, _LONGEST = 100, 500  # updates


@dataclass(frozen=True, slots=True)
class Report:
    """Result of the comparison.

    Attributes:
        name: Name of the run.
        updates: Updates of both runs.
        updates_per_epoch: Updates of an epoch.
        points: Comparisons at each interruption, and at the end.
        not_compared: Places that differ without any interruption, such as measured times.
        forgotten: Values that callbacks with different results had lost when the run continued.
    """

    name: str
    updates: int
    updates_per_epoch: int
    points: tuple[Compared, ...]
    not_compared: tuple[str, ...]
    forgotten: tuple[str, ...]

    @property
    def is_equal(self) -> bool:
        """True if nothing differs."""
        return all(point.difference is None for point in self.points)


def verify_resume(
    spec: str | Path,
    *,
    overrides: Sequence[str] = (),
    at: Sequence[int] | None = None,
    updates: int | None = None,
    plugins: Iterable[str] = (),
    trusted: Iterable[str] = (),
) -> Report:
    """Run a spec straight and interrupted, and compare both at every interruption and at the end.

    Both runs are attempts of this process, in the main thread, since a real SIGTERM interrupts them.

    Args:
        spec: The TOML file.
        overrides: Overrides as on the command line.
        at: Updates after which to interrupt; by default the first, within and at the end of an epoch, the last but one.
        updates: Number of updates; by default two epochs, or a little more than one if that is long.
        plugins: Run plugins beside those that the spec uses.
        trusted: Further packages that dotted kinds may import.

    Raises:
        UsageError: if the spec is wrong, trains nothing, or ends before an interruption.
        TrainingError: if one of the runs failed.
    """
    plugins = list(plugins)
    loaded = load_spec(spec, overrides, trust=trusted, plugins=plugins)
    with TemporaryDirectory(prefix="noether-") as folder, redirect_stdout(StringIO()):
        with rehearsal(loaded, plugins) as run:
            counter = run.trainer.update_counter
        end = _length(counter, updates)
        points = _points(counter, end, at)
        changes = _changes(loaded.spec, Path(folder), end if end < counter.end_update else None)
        short = load_spec(spec, overrides, changes, trust=trusted, plugins=plugins)
        comparison = _Pair(short, plugins, Path(folder)).comparison(points)
        compared = comparison.compared()
        forgotten = () if all(point.difference is None for point in compared) else comparison.forgotten()
    return Report(
        loaded.spec.name,
        updates=comparison.straight.end,
        updates_per_epoch=counter.updates_per_epoch,
        points=compared,
        not_compared=comparison.not_compared,
        forgotten=forgotten,
    )


class _Pair:
    """Both runs.

    Args:
        loaded: The shortened spec.
        plugins: Run plugins beside those that it uses.
        output: Folder of both runs.
    """

    def __init__(self, loaded: LoadedSpec, plugins: list[str], output: Path) -> None:
        self.loaded = loaded
        self.plugins = plugins
        self.output = output

    def comparison(self, points: Sequence[int]) -> Comparison:
        """Run both, interrupted after these updates.

        Raises:
            UsageError: if the run ends before the first of them.
        """
        straight = self.straight(points)
        reached = [point for point in points if point < straight.end]
        if not reached:
            raise UsageError(
                f"the run ends after update {straight.end}, before it could be interrupted",
                hint="--at takes the updates, --updates makes the run longer",
            )
        return Comparison(straight, self.interrupted(reached))

    def straight(self, points: Sequence[int]) -> Attempt:
        """Run without an interruption; save at the updates at which the other run is interrupted."""
        recorder = Interruption(points, self.output / "kept-straight", interrupts=False)
        paths = PathProvider(self.output, "straight")
        self._attempt(paths, recorder)
        return Attempt(paths, recorder)

    def interrupted(self, points: Sequence[int]) -> list[Attempt]:
        """Run, be interrupted, and continue in the same folder until the end; return every attempt."""
        paths = PathProvider(self.output, "interrupted")
        attempts: list[Attempt] = []
        while not attempts or attempts[-1].was_interrupted:
            recorder = Interruption(points[len(attempts) :], self.output / "kept-interrupted", interrupts=True)
            outcome = self._attempt(paths, recorder, after=attempts[-1].end if attempts else None)
            attempts.append(Attempt(paths, recorder, was_interrupted=outcome.status == "KILLED"))
        return attempts

    def _attempt(self, paths: PathProvider, recorder: Interruption, *, after: int | None = None) -> Outcome:
        extra = Participant("verify-resume", "verify-resume", recorder, is_plugin=True)
        with preparation(self.loaded, self.plugins, extras=[extra]) as prepared:
            outcome = Execution(prepared, paths, resume="auto", quiet=True).run()
        if outcome.status == "KILLED" and not recorder.has_interrupted:
            raise SystemExit(outcome.exit_code)  # a signal from outside ends the whole command
        if outcome.error is not None and outcome.status == "FAILED":
            which = "the run fails" if after is None else f"resumed after update {after}, the run fails"
            raise TrainingError(f"{which}: {describe(outcome.error)}") from outcome.error
        return outcome


def _length(counter: UpdateCounter, wanted: int | None) -> int:
    """Return the number of updates to train."""
    if not counter.end_update:
        raise UsageError("the run trains nothing, so there is nothing to resume")
    epoch = counter.updates_per_epoch
    short = min(max(min(2 * epoch, _SHORT), epoch + epoch // 10 + 1), _LONGEST)
    return min(counter.end_update, wanted or short)


def _points(counter: UpdateCounter, end: int, at: Sequence[int] | None) -> list[int]:
    """Return the updates after which to interrupt."""
    epoch = counter.updates_per_epoch
    if at is None:
        return sorted({point for point in (1, epoch // 2, epoch, end - 1) if counter.update < point < end})
    if wrong := [point for point in at if not counter.update < point < end]:
        raise UsageError(
            f"a run of {end} updates cannot be interrupted after {', '.join(map(str, wrong))}",
            hint=f"give numbers from {counter.update + 1} to {end - 1}; --updates makes the runs longer",
        )
    return sorted(set(at))


def _changes(spec: RunSpec, output: Path, end: int | None) -> dict[str, Any]:
    """Return overrides that track, expect and leave behind nothing, and end the runs earlier."""
    changes: dict[str, Any] = {"output": str(output), "trackers": [{"kind": "noop"}], "expect": None}
    changes["checkpoints.asynchronous"] = (
        False  # attributes of callbacks are noted when a checkpoint has been committed
    )
    if end is not None:
        changes |= {"trainer.max_epochs": None, "trainer.max_samples": None, "trainer.max_updates": end}
    for place, initializer in (("initializer", spec.initializer), ("trainer.initializer", spec.trainer.initializer)):
        run_id = getattr(initializer, "run_id", None)
        if run_id is not None:  # it is looked up below the output of the spec
            changes |= {f"{place}.run_id": None, f"{place}.path": str(Path(spec.output).absolute() / run_id)}
    return changes
