"""A run described at its start and its end: lines of the log, and the description for its trackers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from noether.checkpoint.paths import PathProvider, shown_path
from noether.config.metric_facts import TRAINING_LOSS
from noether.core.callbacks.periodic import PeriodicCallback
from noether.core.callbacks.tree import family
from noether.data.container import DataContainer
from noether.data.dataset import AnyDataset, InMemoryDataset, length_of
from noether.data.fetch import usable
from noether.errors import NoetherError
from noether.kernel.entries import BUILT_IN, Component
from noether.kernel.participant import Participant
from noether.metrics.metrics_file import MetricsFile
from noether.metrics.tracker import DatasetFacts, RunDescription
from noether.runs.console import BOLD
from noether.runs.outcome import describe
from noether.runs.prepare import Run
from noether.runs.results.summary import RunSummary, summary_of
from noether.runs.results.table import next_commands
from noether.runs.resume.facts import data_samples
from noether.runs.sweep.trial import SWEEP
from noether.runs.tracking.note import describe_run
from noether.runs.tracking.tracking import flattened
from noether.spec.errors.words import counted, in_columns, visible
from noether.spec.fields import components_in
from noether.spec.model import RunSpec, changed_settings, resolved_tables
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
    return "" if limit is None else f"a trial of {counted(limit, 'batch', 'es')} a pass"


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
    threads = f", {counted(run.threads.number, 'thread')}" if trainer.device.type == "cpu" else ""
    yield "device", f"{spec.device}{threads}{ranks}"
    sizes = {key: length_of(run.data.get_dataset(key)) for key in run.data.keys()}  # noqa: SIM118  # no mapping
    yield "data", ", ".join(f"{visible(key)} {counted(size, 'sample')}" for key, size in sizes.items())
    parameters = list(run.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    yield "model", f"{spec.model.kind}, {total:,} parameters, {trainable:,} trainable"
    if counter.end_update:
        form = "" if trainer.update_form is None else f", {trainer.update_form.form.name}"
        steps = trainer.accumulation_steps
        accumulated = f" in {steps} accumulation steps" if steps > 1 else ""
        yield "update", f"{counted(counter.effective_batch_size, 'sample')}{accumulated}{form}"
        epochs = counted(counter.end_update / counter.updates_per_epoch, "epoch")
        yield "length", f"{counted(counter.end_update, 'update')}, {epochs}"
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
        return False, f"one batch: found {counted(len(losses), 'training loss', 'es')}, expected several to compare"
    first, last = losses[0], losses[-1]
    moved = f"one batch: the loss went from {first:.4g} to {last:.4g} in {counted(updates, 'update')}"
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
    always = {
        f"evaluation, {counted(int(rounds), 'round')}": evaluated,
        f"checkpoints, {int(saves):,}": saved + waited,
    }
    seconds |= always
    seconds["other"] = max(0.0, training - sum(seconds.values()))
    seconds = parts | seconds
    whole = sum(seconds.values()) or 1.0
    shown = {name: value for name, value in seconds.items() if value / whole >= _LEAST or (value and name in always)}
    note = "" if run.trainer.device.type == "cpu" else " of the host"
    rows = [(name, f"{value:.2f}", f"{value / whole:.0%}") for name, value in shown.items()]
    return columns((f"time{note}", "seconds", "share"), rows)


def costs_of(run: Run) -> dict[str, tuple[int, float]]:
    """Return calls and seconds of callbacks in rounds with an evaluation, the dearest first; others are not timed."""
    light = {one.id for one in run.trainer.participants if vars(type(one.instance)).get("calls_model") is False}
    timers = {id_: timer for (hook, id_), timer in run.trainer.state.rounds.items() if hook == PERIODIC}
    found = sorted(((id_, timer) for id_, timer in timers.items() if id_ not in light), key=lambda one: -one[1][1])
    return {id_: (int(calls), float(seconds)) for id_, (calls, seconds) in found}


def _costs(run: Run) -> list[str]:
    """Return the table of `costs_of`."""
    rows = [
        (visible(id_), f"{calls:,}", f"{seconds:.2f}", f"{1000 * seconds / max(calls, 1):.1f}")
        for id_, (calls, seconds) in costs_of(run).items()
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
    return in_columns(list(zip(*shown, strict=True)), right)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "").rstrip("%") or 0)
    except ValueError:
        return False
    return True


_FIRST = (r"model\.", r"trainer\.(?!(eval_)?callbacks\.)", r"datasets\.", r"transforms\.", "(seed|initializer)")
"""Settings in the order in which people look for them; callbacks, trackers and the rest come last."""
_FILLED_IN = re.compile(r"name|device|threads|(.*\.)?id|trackers\..*")


def description_of(run: Run, paths: PathProvider, plugins: Sequence[Participant]) -> RunDescription:
    """Describe a run for its trackers, without the facts of an attempt.

    Args:
        run: The run.
        paths: Paths of the run.
        plugins: Its run plugins.
    """
    limited, sweep = limits_of(run.spec), os.environ.get(SWEEP)
    datasets = datasets_of(run.spec, run.data)
    summarise = partial(describe_run, paths, datasets)
    return RunDescription(
        run_id=run.run_id,
        name=run.spec.name,
        run_dir=run.run_dir,
        params=parameters(run.spec),
        tags={
            "noether.plugins": json.dumps(packages_of(run, plugins)),
            "noether.spec.sha256": run.trainer.checkpoint_writer.spec_sha256,
            **({"noether.limited": limited} if limited else {}),
            **({"noether.sweep": sweep} if sweep else {}),
        },
        resolved_spec_path=paths.resolved_spec_path,
        summary=summarise(None),
        datasets=datasets,
        summarise=summarise,
    )


def parameters(spec: RunSpec) -> dict[str, str]:
    """Return the flattened resolved spec, with the settings that differ from the defaults of their classes first."""
    every = flattened(resolved_tables(spec))
    changed = [key for key in flattened(changed_settings(spec)) if key in every and not _FILLED_IN.fullmatch(key)]
    return {key: every[key] for key in (*sorted(changed, key=_place), *every)}


def _place(key: str) -> int:
    return next((place for place, pattern in enumerate(_FIRST) if re.match(pattern, key)), len(_FIRST))


_SAMPLED = 1 << 16  # bytes at the beginning and the end of each property


def datasets_of(spec: RunSpec, data: DataContainer) -> tuple[DatasetFacts, ...]:
    """Return the facts of each data set; one that cannot be measured is left out."""
    tables = resolved_tables(spec).get("datasets", {})
    properties = {name: (tuple(raw["shape"]), raw["dtype"]) for name, raw in data.raw_properties().items()}
    files = data_samples(spec)
    found = []
    for key in data.keys():  # noqa: SIM118  # not a mapping
        table, dataset = tables.get(key, {}), data.raw(key)
        try:
            with usable(key):
                samples = length_of(dataset)
        except NoetherError:
            continue
        own = _shapes(dataset) or properties
        source = json.dumps(table, sort_keys=True)
        digest = hashlib.sha256(json.dumps([samples, own]).encode())
        for part in _content(dataset) or (source.encode(), *files.get(key, ())):
            digest.update(part)
        found.append(DatasetFacts(key, str(table.get("kind", key)), digest.hexdigest()[:16], samples, source, own))
    return tuple(found)


def _shapes(dataset: AnyDataset) -> dict[str, tuple[tuple[int, ...], str]]:
    tensors = dataset.properties if isinstance(dataset, InMemoryDataset) else {}
    return {name: (tuple(one.shape[1:]), str(one.dtype).removeprefix("torch.")) for name, one in tensors.items()}


def _content(dataset: AnyDataset) -> list[bytes]:
    """Return the beginning and the end of each property in memory; nothing for other data sets."""
    tensors = dataset.properties if isinstance(dataset, InMemoryDataset) else {}
    return [part for name, tensor in tensors.items() for part in (name.encode(), *_ends(tensor))]


def _ends(tensor: Tensor) -> Iterator[bytes]:
    flat = tensor.detach().reshape(-1)
    count = max(1, _SAMPLED // max(1, flat.element_size()))
    for part in (flat[:count], flat[-count:]):
        yield part.cpu().contiguous().view(torch.uint8).numpy().tobytes()
