"""Lines that a run prints at its start and at its end: facts, results, times, and the next commands."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from noether.checkpoint.paths import PathProvider, shown_path
from noether.config.metric_facts import TRAINING_LOSS
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.callbacks.tree import family
from noether.data.dataset import length_of
from noether.errors import NoetherError
from noether.kernel.entries import BUILT_IN, Component
from noether.kernel.participant import Participant
from noether.metrics.metrics_file import MetricsFile
from noether.runs.console import BOLD
from noether.runs.outcome import describe
from noether.runs.prepare import Run
from noether.runs.results.summary import RunSummary, summary_of
from noether.runs.results.table import next_commands
from noether.spec.describe.fields import components_in
from noether.spec.errors.words import visible
from noether.spec.model import RunSpec
from noether.training.rounds import CHECKPOINT_WAIT, EVALUATION, PERIODIC, SAVE

_LOG = logging.getLogger("noether.run")
_WIDTH = 10
"""Columns of the names of facts."""
_PARTS = {"data_time": "data", "forward_time": "forward", "backward_time": "backward", "update_time": "optimizer"}
_LEAST = 0.005
"""Least share of the time of a part that has a line; evaluations and checkpoints have one in any case."""
_LEARNT, _UNCHANGED = 0.1, 0.95
"""Shares of the first loss: a batch is learnt below the first one, and nothing is learnt above the other one."""


def fact(name: str, value: str) -> str:
    """Return a line with a fact of a run."""
    return f"  {name:<{_WIDTH}}{value}"


def limits_of(spec: RunSpec) -> str:
    """Describe what makes a run a trial of its spec; empty for a whole run."""
    limit = spec.loader.limit_batches
    if spec.loader.overfit_one_batch:
        return "a trial on one batch"
    return "" if limit is None else f"a trial of {_counted(limit, 'batch', 'es')} a pass"


def say_start(run: Run, plugins: Sequence[Participant], notes: Iterable[str]) -> None:
    """Log the facts of a run that is about to train, and what a trial leaves out."""
    _LOG.info("run %s in %s", run.run_id, shown_path(run.run_dir), extra=BOLD)
    for name, value in _facts(run, plugins):
        _LOG.info("%s", fact(name, value))
    for note in notes:
        _LOG.info("note: %s", note)
    for warning in unreached(run):
        _LOG.warning("%s", warning)


def _facts(run: Run, plugins: Sequence[Participant]) -> Iterator[tuple[str, str]]:
    spec, trainer, counter = run.spec, run.trainer, run.trainer.update_counter
    ranks = f", {trainer.parallel.world} ranks" if trainer.parallel.world > 1 else ""
    threads = f", {_counted(run.threads.number, 'thread')}" if trainer.device.type == "cpu" else ""
    yield "device", f"{spec.device}{threads}{ranks}"
    sizes = {key: length_of(run.data.get_dataset(key)) for key in run.data.keys()}  # noqa: SIM118  # no mapping
    yield "data", ", ".join(f"{visible(key)} {_counted(size, 'sample')}" for key, size in sizes.items())
    parameters = list(run.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    yield "model", f"{spec.model.kind}, {total:,} parameters, {trainable:,} trainable"
    if counter.end_update:
        form = "" if trainer.update_form is None else f", {trainer.update_form.form.name}"
        steps = trainer.accumulation_steps
        accumulated = f" in {steps} accumulation steps" if steps > 1 else ""
        yield "update", f"{_counted(counter.effective_batch_size, 'sample')}{accumulated}{form}"
        epochs = f"{counter.end_update / counter.updates_per_epoch:.2f}".rstrip("0").rstrip(".")
        yield "length", f"{_counted(counter.end_update, 'update')}, {epochs} epoch{'' if epochs == '1' else 's'}"
    else:
        yield "length", "no training, one evaluation"
    if used := [plugin.id for plugin in plugins] + [f"{name} {at}" for name, at in packages_of(run, plugins).items()]:
        yield "plugins", ", ".join(map(visible, used))
    if limited := limits_of(spec):
        yield "limited", f"{limited}: its results are not those of the spec"


def packages_of(run: Run, plugins: Sequence[Participant]) -> dict[str, str]:
    """Return the installed packages, beside Noether, that a run uses, with their versions."""
    parts: list[Component | Participant] = [component for _, component in components_in(run.spec)]
    found = {part.distribution: part.version for part in [*parts, *plugins] if part.distribution != BUILT_IN}
    found.pop("", None)
    return dict(sorted(found.items()))


def unreached(run: Run) -> list[str]:
    """Return warnings of a run with `limit_batches`: a limit that it leaves, and callbacks that never act."""
    if run.spec.loader.limit_batches is None or not run.trainer.total_training_updates:
        return []
    config, counter = run.trainer.config, run.trainer.update_counter
    lines = []
    for name in ("max_updates", "max_samples"):
        if (limit := getattr(config, name)) is not None:
            lines.append(
                f"limit_batches makes epochs shorter, and the run still ends at {name} = {limit}: "
                f"-s trainer.{name}=N makes it shorter"
            )
    periodic = [
        one for one in family(run.trainer.callbacks) if isinstance(one, PeriodicCallback) and one.intervals.verbose
    ]
    if idle := [one.id for one in periodic if one.next_due_update(counter) > counter.end_update]:
        lines.append(f"the trial is too short for callbacks whose interval never fires in it: {', '.join(idle)}")
    return lines


class Clock:
    """Seconds of one attempt by part, from the moment at which it is made.

    Attributes:
        parts: Seconds by name; `start` ends where the first part begins.
    """

    def __init__(self) -> None:
        self._began = perf_counter()
        self.parts: dict[str, float] = {}

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """Measure the block as a part."""
        started = perf_counter()
        self.parts.setdefault("start", started - self._began)
        try:
            yield
        finally:
            self.parts[part] = perf_counter() - started


def say_end(run: Run, paths: PathProvider, clock: Clock) -> None:
    """Log the results of a run that has ended, the time of its parts, and the next commands.

    A run folder that can no longer be read changes nothing about the outcome.
    """
    try:
        summary = summary_of(paths)
        for block in (_results(summary), _times(run, clock), _costs(run), _next(summary)):
            for line in ["", *block] if block else []:
                _LOG.info("%s", f"  {line}" if line else "", extra=BOLD if line.isupper() else None)
        if run.spec.loader.overfit_one_batch:
            is_learnt, verdict = overfit(_losses(paths), summary.update)
            _LOG.log(logging.INFO if is_learnt else logging.WARNING, "%s", verdict)
    except (OSError, NoetherError) as error:
        _LOG.warning("%s", describe(error))


def _losses(paths: PathProvider) -> list[float]:
    records = MetricsFile(paths.metrics_path, paths.run_path).read(skips_damaged=True)
    return [one.metrics[TRAINING_LOSS] for one in records if TRAINING_LOSS in one.metrics]


def overfit(losses: Sequence[float], updates: int) -> tuple[bool, str]:
    """Return True if the training loss of one batch fell as that of a model that can learn, and say how far it fell.

    Args:
        losses: The losses in their order.
        updates: Number of updates.
    """
    if len(losses) < 2:
        return False, f"one batch: found {_counted(len(losses), 'training loss', 'es')}, expected several to compare"
    first, last = losses[0], losses[-1]
    moved = f"one batch: the loss went from {first:.4g} to {last:.4g} in {_counted(updates, 'update')}"
    if not first > 0 or not last >= 0:  # no share of it
        return last < first, f"{moved}: it {'fell' if last < first else 'did not fall'}"
    fallen = f"{moved}, by {1 - last / first:.1%}"
    if last <= _LEARNT * first:
        return True, f"{fallen}: the model can learn"
    if last <= _UNCHANGED * first:
        return True, f"{fallen}: it learns, but slowly; try more updates (-s trainer.max_updates=N) or another lr"
    found = "hardly fell" if last < first and f"{last:.4g}" != f"{first:.4g}" else "did not fall"
    return False, f"{moved}: it {found}; look at the targets, the loss, frozen parameters and the lr"


def _results(summary: RunSummary) -> list[str]:
    """Return a table of the metrics of evaluations, and the last training loss."""
    rows = [
        (
            visible(one.key),
            _number(one.best),
            "" if one.best_update is None else f"{one.best_update:,}",
            visible(one.checkpoint or ""),
            _number(one.final),
            f"{one.final_update:,}",
        )
        for one in summary.evaluations
    ]
    if (loss := summary.metrics.get(TRAINING_LOSS)) is not None:
        rows.append((TRAINING_LOSS, "", "", "", _number(loss), f"{summary.update:,}"))
    return columns(("metric", "best", "at update", "checkpoint", "last", "at update"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _times(run: Run, clock: Clock) -> list[str]:
    """Return a table of the time by part."""
    state, parts = run.trainer.state, dict(clock.parts)
    training = parts.pop("training", 0.0)
    seconds = {_PARTS.get(name, name.removesuffix("_time")): value for name, value in state.seconds.items()}
    waited = seconds.pop(CHECKPOINT_WAIT, 0.0)
    (rounds, evaluated), (saves, saved) = (state.rounds.get(key, (0, 0.0)) for key in (EVALUATION, SAVE))
    counted = {
        f"evaluation, {_counted(int(rounds), 'round')}": evaluated,
        f"checkpoints, {int(saves):,}": saved + waited,
    }
    seconds |= counted
    seconds["other"] = max(0.0, training - sum(seconds.values()))
    seconds = parts | seconds
    whole = sum(seconds.values()) or 1.0
    shown = {name: value for name, value in seconds.items() if value / whole >= _LEAST or (value and name in counted)}
    note = "" if run.trainer.device.type == "cpu" else " of the host"
    rows = [(name, f"{value:.2f}", f"{value / whole:.0%}") for name, value in shown.items()]
    return columns((f"time{note}", "seconds", "share"), rows)


def _costs(run: Run) -> list[str]:
    """Return a table of the callbacks in rounds with an evaluation, the dearest first; other rounds are not timed."""
    light = {one.id for one in run.trainer.participants if vars(type(one.instance)).get("calls_model") is False}
    timers = {id_: timer for (hook, id_), timer in run.trainer.state.rounds.items() if hook == PERIODIC}
    found = sorted(((id_, timer) for id_, timer in timers.items() if id_ not in light), key=lambda one: -one[1][1])
    rows = [
        (visible(id_), f"{int(times):,}", f"{seconds:.2f}", f"{1000 * seconds / max(times, 1):.1f}")
        for id_, (times, seconds) in found
    ]
    return columns(("callback, in evaluations", "times", "seconds", "ms each"), rows)


def _next(summary: RunSummary) -> list[str]:
    """Return the commands that go on with a run."""
    return [f"{'' if index else 'next':<6}{command}" for index, command in enumerate(next_commands(summary))]


def columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows in columns below their names, never wrapped or cut; numbers end at the right. Empty without rows."""
    if not rows:
        return []
    table = [[name.upper() for name in names], *map(list, rows)]
    shown = [column for column in zip(*table, strict=True) if any(column[1:])]
    right = [all(_is_number(cell) for cell in column[1:]) for column in shown]
    widths = [max(map(len, column)) for column in shown]
    return [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in zip(*shown, strict=True)
    ]


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "").rstrip("%") or 0)
    except ValueError:
        return False
    return True


def _counted(number: int, unit: str, plural: str = "s") -> str:
    return f"{number:,} {unit}{'' if number == 1 else plural}"
