"""Description of a run for trackers: parameters, data sets and versions, and a text in Markdown."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from noether.checkpoint.paths import PathProvider, shown_path
from noether.data.container import DataContainer
from noether.data.dataset import AnyDataset, InMemoryDataset, length_of
from noether.data.fetch import usable
from noether.errors import NoetherError
from noether.kernel.participant import Participant
from noether.metrics.tracker import DatasetFacts, RunDescription, RunStatus
from noether.runs.prepare import Run
from noether.runs.results.summary import Evaluated, RunSummary, summary_of
from noether.runs.resume.facts import data_samples
from noether.runs.start_and_end import limits_of, packages_of
from noether.runs.sweep.trial import SWEEP
from noether.runs.tracking.tracking import flattened
from noether.spec.errors.words import visible
from noether.spec.model import RunSpec, changed_settings, resolved_tables

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


_MOST_METRICS = 20
_IN_ONE_LINE = 3


def describe_run(paths: PathProvider, datasets: Sequence[DatasetFacts], status: RunStatus | None) -> str:
    """Return what a run is, its results so far and the commands that go on from it, in Markdown.

    Args:
        paths: Paths of the run.
        datasets: Its data sets.
        status: Its end, if its process is still at work; None for that of the folder.
    """
    summary = summary_of(paths)
    if status is not None:
        summary = replace(summary, status=status)
    return "\n\n".join(filter(None, (_state(summary), _subject(summary, datasets), _results(summary), _ways(summary))))


def _state(summary: RunSummary) -> str:
    words = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "was stopped", "RUNNING": "is running"}
    text = f"**{_plain(summary.name)}** {words.get(summary.status, 'has an unknown state')}"
    if summary.update:
        text += f" after epoch {summary.epoch}, update {summary.update:,}, in {_duration(summary.seconds)}"
    reason = f": {_plain(summary.error)}" if summary.error and summary.status == "FAILED" else ""
    shown = (f"{_code(one.key)} {_shown(one)}" for one in summary.evaluations[:_IN_ONE_LINE])
    return " · ".join((f"{text}{reason}", *shown))


def _subject(summary: RunSummary, datasets: Sequence[DatasetFacts]) -> str:
    model = summary.tables.get("model")
    kind = model.get("kind") if isinstance(model, Mapping) else None
    text = f"It trains {_code(str(kind or 'a model'))}"
    if parameters := summary.metrics.get("model/parameters"):
        text += f" with {parameters:,.0f} parameters"
    parts = [f"{one.samples:,} samples of {_code(one.kind)} as {_code(one.key)}" for one in datasets[:5]]
    return f"{text} on {', '.join(parts)}." if parts else f"{text}."


def _results(summary: RunSummary) -> str:
    if not summary.evaluations:
        return ""
    rows = [_row(one) for one in summary.evaluations[:_MOST_METRICS]]
    table = "\n".join(("| metric | best | at epoch | last |", "| --- | ---: | ---: | ---: |", *rows))
    left = len(summary.evaluations) - len(rows)
    return f"{table}\n\nand {left} more under *Model metrics*." if left > 0 else table


def _shown(one: Evaluated) -> str:
    return f"**{one.final:.5g}**" + ("" if one.best in (None, one.final) else f" (best {one.best:.5g})")


def _row(one: Evaluated) -> str:
    better = {"min": " (lower is better)", "max": " (higher is better)"}.get(one.direction or "", "")
    best = "" if one.best is None else f"**{one.best:.5g}**"
    epoch = "" if one.best_epoch is None else str(one.best_epoch)
    return f"| {_code(one.key)}{better} | {best} | {epoch} | {one.final:.5g} |"


def _ways(summary: RunSummary) -> str:
    place = shlex.quote(str(shown_path(summary.paths.run_path)))
    ways = [f"noether eval {place}", f"noether predict {place} --data new.csv --out predictions.csv"]
    if summary.status not in ("FINISHED", "RUNNING"):
        ways.insert(0, f"noether resume {place}")
    return "\n".join(("```console", *(f"$ {visible(way)}" for way in ways), "```"))


def _plain(text: str) -> str:
    """Return text in one line in which Markdown and HTML have no meaning."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", visible(" ".join(text.split()))[:300])


def _code(text: str) -> str:
    return "`" + visible(text).replace("`", "'").replace("|", "\\|")[:200] + "`"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
