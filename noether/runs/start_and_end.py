"""Lines that a run prints at its start and at its end: facts, results, times, and the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noether.checkpoint.paths import PathProvider, shown_path
from noether.core.callbacks.display import TRAINING_LOSS
from noether.data.dataset import length_of
from noether.kernel.entries import BUILT_IN
from noether.kernel.names import listed
from noether.kernel.participant import Participant
from noether.runs.prepare import Run
from noether.runs.results.summary import Evaluated, RunSummary, summary_of
from noether.spec.describe.fields import components_in
from noether.spec.errors.words import visible
from noether.spec.model import RunSpec
from noether.training.rounds import CHECKPOINT_WAIT, EVALUATION, PERIODIC, SAVE

_WIDTH = 10
"""Columns of the names of facts."""
_SHOWN = 4  # names in a list
_PARTS = {"data_time": "data", "forward_time": "forward", "backward_time": "backward", "update_time": "optimizer"}
_LEAST = 0.005
"""Least share of the time of a part that has a line of its own."""
_LEARNS, _STAYS = 0.1, 0.95
"""Shares of the first loss: below the first one a batch is learnt, above the other one nothing is."""


def fact(name: str, value: str) -> str:
    """Return a line with a fact of a run."""
    return f"  {name:<{_WIDTH}}{value}"


def limits_of(spec: RunSpec) -> str:
    """Describe what makes a run a trial of its spec; empty for a whole run."""
    limit = spec.loader.limit_batches
    if spec.loader.overfit_one_batch:
        return "a trial on one batch"
    return "" if limit is None else f"a trial of {_counted(limit, 'batch', 'es')} a pass"


def header(run: Run, plugins: Sequence[Participant]) -> Iterator[str]:
    """Yield the facts of a run that is about to train."""
    spec, trainer, counter = run.spec, run.trainer, run.trainer.update_counter
    ranks = f", {trainer.parallel.world} ranks" if trainer.parallel.world > 1 else ""
    on_cpu = trainer.device.type == "cpu"
    threads = f", {_counted(run.threads.number, 'thread')}" if on_cpu else ""
    yield fact("device", f"{run.spec.device}{threads}{ranks}")
    sizes = {key: length_of(run.data.get_dataset(key)) for key in run.data.keys()}  # noqa: SIM118  # no mapping
    yield fact("data", ", ".join(f"{visible(key)} {_counted(size, 'sample')}" for key, size in sizes.items()))
    parameters = list(run.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    kind = spec.model.kind
    yield fact("model", f"{kind}, {sum(p.numel() for p in parameters):,} parameters, {trainable:,} trainable")
    if counter.end_update:
        form = "" if trainer.update_form is None else f", {trainer.update_form.form.name}"
        steps = trainer.accumulation_steps
        accumulated = f" in {steps} accumulation steps" if steps > 1 else ""
        yield fact("update", f"{_counted(counter.effective_batch_size, 'sample')}{accumulated}{form}")
        epochs = counter.end_update / counter.updates_per_epoch
        yield fact("length", f"{_counted(counter.end_update, 'update')}, {f'{epochs:.2f}'.rstrip('0').rstrip('.')} epochs")
    else:
        yield fact("length", "no training, one evaluation")
    if used := _plugins(run, plugins):
        yield fact("plugins", used)
    if limited := limits_of(spec):
        yield fact("limited", f"{limited}: its results are no results of the spec")


def _plugins(run: Run, plugins: Sequence[Participant]) -> str:
    parts = [*(component for _, component in components_in(run.spec)), *plugins]
    packages = {part.distribution: part.version for part in parts if part.distribution not in ("", BUILT_IN)}
    found = [plugin.id for plugin in plugins]
    found += [f"{name} {version}".rstrip() for name, version in sorted(packages.items())]
    return ", ".join(map(visible, found))


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
    idle = [one.id for one in run.trainer.callbacks if hasattr(one, "next_due_update") and _is_idle(one, counter)]
    if idle:
        lines.append(f"the trial is too short for callbacks whose interval never fires in it: {', '.join(idle)}")
    return lines


def _is_idle(callback: object, counter: object) -> bool:
    due = callback.next_due_update(counter)  # type: ignore[attr-defined]  # the caller has looked
    intervals = getattr(callback, "intervals", None)
    return bool(intervals) and intervals.verbose != "" and due > counter.end_update  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one attempt.

    Attributes:
        start: From the beginning of the attempt to that of training.
        training: Of training, with its evaluations and checkpoints.
    """

    start: float
    training: float


def closing(run: Run, paths: PathProvider, spent: Spent) -> Iterator[str]:
    """Yield the results of a run that has ended, the time that its parts took, and the next commands."""
    summary = summary_of(paths)
    yield from _results(summary)
    if run.spec.loader.overfit_one_batch:
        yield ""
        yield from overfit(summary, paths)
    if spent.training:
        yield ""
        yield from _times(run, spent)
    if costs := _costs(run):
        yield ""
        yield from costs
    yield ""
    yield from _next(run, summary, paths)


def _results(summary: RunSummary) -> list[str]:
    """Return a table of the metrics of evaluations; the last training loss without any."""
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
    lines = [f"  {line}" for line in columns(("metric", "best", "update", "checkpoint", "final", "update"), rows)]
    if (loss := summary.metrics.get(TRAINING_LOSS)) is not None:
        lines.append(f"  training loss {_number(loss)} ({TRAINING_LOSS})")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def overfit(summary: RunSummary, losses: Sequence[float]) -> str:
    """Say whether the training loss of one batch fell."""
    if len(losses) < 2:
        return "one batch: the loss was not logged, so whether the model can learn is not known"
    first, last = losses[0], losses[-1]
    moved = f"the loss of one batch went from {first:.4g} to {last:.4g} in {summary.update:,} updates"
    if not first > 0 or not last >= 0:
        return f"{moved}"
    share = last / first
    if share <= _LEARNS:
        return f"{moved}, {1 - share:.1%} down: the model can learn"
    if share <= _STAYS:
        return f"{moved}, {1 - share:.1%} down: it learns slowly; try more updates or another learning rate"
    return f"{moved}: it did not fall; look at the loss, the targets, frozen parameters and the learning rate"


def _times(run: Run, spent: Spent) -> Iterator[str]:
    """Yield a table of the time by part."""
    state = run.trainer.state
    seconds = {_PARTS.get(name, name.removesuffix("_time")): value for name, value in state.seconds.items()}
    waited = seconds.pop(CHECKPOINT_WAIT, 0.0)
    passes, saves = state.rounds.get(EVALUATION, [0, 0.0]), state.rounds.get(SAVE, [0, 0.0])
    seconds[f"evaluation ({_counted(int(passes[0]), 'round')})"] = passes[1]
    seconds[f"checkpoints ({int(saves[0]):,})"] = saves[1] + waited
    seconds["other"] = max(0.0, spent.training - sum(seconds.values()))
    seconds = {"start": spent.start, **seconds}
    whole = sum(seconds.values()) or 1.0
    shown = {name: value for name, value in seconds.items() if value / whole >= _LEAST}
    note = "" if run.trainer.device.type == "cpu" else ", as the host sees it"
    rows = [(name, f"{value:.2f}", f"{value / whole:.0%}") for name, value in shown.items()]
    yield from (f"  {line}" for line in columns((f"time{note}", "s", "share"), rows))


def _costs(run: Run) -> list[str]:
    """Return a table of the callbacks in rounds that may call the model, the dearest first."""
    light = {one.id for one in run.trainer.participants if _is_light(one.instance)}
    timers = {id_: timer for (hook, id_), timer in run.trainer.state.rounds.items() if hook == PERIODIC}
    found = sorted(((id_, timer) for id_, timer in timers.items() if id_ not in light), key=lambda one: -one[1][1])
    rows = [
        (visible(id_), f"{int(times):,}", f"{seconds:.2f}", f"{1000 * seconds / max(times, 1):.1f}")
        for id_, (times, seconds) in found
    ]
    return [f"  {line}" for line in columns(("callback, in rounds", "times", "s", "ms each"), rows)]


def _is_light(instance: object) -> bool:
    return vars(type(instance)).get("calls_model") is False


def _next(run: Run, summary: RunSummary, paths: PathProvider) -> Iterator[str]:
    place = shlex.quote(str(shown_path(paths.run_path)))
    yield fact("evaluate", f"noether eval {place}")
    yield fact("predict", f"noether predict {place} --data FILE")
    yield fact("look", f"noether runs report {place}")


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
