"""Table of runs: conditions on settings, metrics and facts of a run, order, and columns."""

from __future__ import annotations

import math
import operator
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from noether.checkpoint.paths import shown_path
from noether.errors import NoetherError, UsageError
from noether.kernel.names import did_you_mean
from noether.runs.results.summary import RunState, RunSummary, summaries_in
from noether.spec.errors.words import quoted
from noether.spec.overlay import ABSENT, differing_settings, same_value, settings_of, value_at
from noether.spec.read.document import plain
from noether.spec.read.overrides import parse_path

FACTS: Mapping[str, Callable[[RunSummary], Any]] = {
    "id": lambda run: run.run_id,
    "status": lambda run: run.status,
    "created": lambda run: ABSENT if run.created is None else moment(run.created),
    "duration": lambda run: run.seconds,
    "updates": lambda run: run.update,
    "epochs": lambda run: run.epoch,
}
"""Facts of a run that can be filtered and sorted by, beside its settings and metrics; a duration is in seconds."""
BEST = "/best"
"""End of a name that stands for the best value of a metric instead of the last one."""
UNSET = "unset"
_OF_THE_PLACE = ("output",)
_OPERATOR = re.compile("!=|<=|>=|==|[=<>]")
_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TIME = re.compile(r"\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?")
_EXAMPLE = "for example --where 'model.hidden=[64]' or --where 'loss/test/total<0.1'"


def select(
    output: Path, *, where: Sequence[str] = (), sort: str = "created", status: Sequence[str] = ()
) -> list[RunSummary]:
    """Return the runs in a folder that fulfil all conditions, in order.

    Args:
        output: The folder.
        where: Conditions, see `parse_condition`.
        sort: A name, see `value_of`; with a `-` before it from high to low.
        status: States, of which a run must have one; all if it is empty.

    Raises:
        UsageError: if there is no such folder, or no run in it has a name.
    """
    states = [_state(text, "--status") for text in status]
    every = summaries_in(output)
    conditions = [parse_condition(text, every) for text in where]
    require_known(sort.removeprefix("-"), every, "--sort")
    kept = [run for run in every if not states or run.status in states]
    return in_order((run for run in kept if all(condition.holds(run) for condition in conditions)), sort)


def _state(text: str, option: str) -> str:
    states = get_args(RunState)
    if text.upper() not in states:
        raise UsageError(
            f"wrong {option}: found {quoted(text)}, expected a status of a run.{did_you_mean(text, states)}",
            hint=f"it is one of {', '.join(states)}",
        )
    return text.upper()


def moment(seconds: float) -> str:
    """Return a time in the local zone as text that sorts: `2026-01-02T03:04:05`."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))


def value_of(run: RunSummary, name: str) -> Any:
    """Return a fact, a setting or a metric of a run; `ABSENT` if it has none of the name.

    Args:
        run: The run.
        name: A key of `FACTS`; a path of the resolved spec, as `-s` takes it; a metric key, in quotes or not, for its
            last value; a metric key and `/best` for its best value.
    """
    if name in FACTS:
        return FACTS[name](run)
    try:
        path = parse_path(name)
    except NoetherError:  # a metric key has slashes
        path = (name,)
    setting = value_at(settings_of(run.tables), path)
    key = path[0] if len(path) == 1 and isinstance(path[0], str) else name
    return _metric(run, key) if setting is ABSENT else setting


def _metric(run: RunSummary, key: str) -> Any:
    if key in run.metrics:
        return run.metrics[key]
    found = (one.best for one in run.evaluations if key == one.key + BEST)
    best = next(found, None)
    return ABSENT if best is None else best


def names_in(runs: Iterable[RunSummary]) -> list[str]:
    """Return the names that `value_of` knows in these runs: metrics, settings, facts."""
    runs = list(runs)
    evaluations = dict.fromkeys(one.key for run in runs for one in run.evaluations)
    paths = dict.fromkeys(path for run in runs for path in settings_of(run.tables, flat=True))
    metrics = dict.fromkeys(key for run in runs for key in run.metrics)
    return [*dict.fromkeys((*evaluations, *FACTS, *paths, *metrics))]


def require_known(name: str, runs: Sequence[RunSummary], option: str) -> None:
    """Check that some of the runs have a name; there is nothing to check without runs.

    Raises:
        UsageError: if none has it; suggests one.
    """
    if name in FACTS or not runs or any(value_of(run, name) is not ABSENT for run in runs):
        return
    known = names_in(runs)
    shown = ", ".join(dict.fromkeys(one.key for run in runs for one in run.evaluations)) or "none"
    raise UsageError(
        f"wrong {option}: found {quoted(name)}, expected a metric, a path of the spec, or one of {', '.join(FACTS)}."
        f"{did_you_mean(name, [*known, *(key + BEST for key in known if '/' in key)])}",
        hint=f"evaluation metrics of these runs: {shown}; `noether runs show RUN --json` prints the settings of one",
    )


def no_such_metric(key: str, known: Sequence[str]) -> UsageError:
    """Return the error for a metric that no run has.

    Args:
        key: The key that was given.
        known: Keys of the evaluation metrics.
    """
    return UsageError(
        f"unknown metric: found {quoted(key)}, expected one that the runs have.{did_you_mean(key, known)}",
        hint=f"they have {', '.join(known) or 'no evaluation metrics'}",
    )


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of `--where`.

    Attributes:
        name: As in `value_of`.
        operator: `=`, `!=`, `<`, `<=`, `>` or `>=`.
        value: The value to compare with; `ABSENT` for a name that a run must not have.
    """

    name: str
    operator: str
    value: Any

    def holds(self, run: RunSummary) -> bool:
        """Return True if a run fulfils it; an order needs two numbers, or two times; a day stands for all of it."""
        found = value_of(run, self.name)
        if self.name == "created" and isinstance(found, str) and isinstance(self.value, str):
            found = found[: len(self.value)]
        if self.operator in ("=", "!="):
            return same_value(found, self.value) is (self.operator == "=")
        comparable = (_is_number(found) and _is_number(self.value)) or (self.name == "created" and found is not ABSENT)
        return comparable and _TESTS[self.operator](found, self.value)


def parse_condition(text: str, runs: Sequence[RunSummary]) -> Condition:
    """Parse an argument of `--where`: a name, an operator, and a value in TOML; a bare word is a string.

    Keys of metrics may hold operators (`ema=0.9/loss/test/total<0.5`), so the name ends at the first operator before
    which stands a name that the runs have.

    Args:
        text: The argument.
        runs: The runs to filter, for their names.

    Raises:
        UsageError: if there is no operator, no run has the name, or the value does not fit name and operator.
    """
    splits = [match for match in _OPERATOR.finditer(text) if text[: match.start()].strip()]
    if not splits:
        raise UsageError(
            f"wrong --where: found {quoted(text)}, expected a name, one of = != < <= > >=, a value", hint=_EXAMPLE
        )
    for split in splits:
        if any(value_of(run, text[: split.start()].strip()) is not ABSENT for run in runs):
            break
    else:
        split = splits[0]
    name, sign = text[: split.start()].strip(), split.group().replace("==", "=")
    require_known(name, runs, "--where")
    value = _parse_value(text[split.end() :].strip(), text, "" if name != "created" else " ")
    if name == "status" and isinstance(value, str):
        value = _state(value, "--where")
    elif name == "created" and value is not ABSENT:
        value = str(value).replace(" ", "T")  # a year is a number
        if not _TIME.fullmatch(value):
            raise _wrong(text, f"a date after {sign}, such as 2026-01-31 or 2026-01-31T12:00")
    elif sign in _TESTS and not _is_number(value):
        raise _wrong(text, f"a number after {sign}")
    elif sign in _TESTS and runs and not any(_is_number(value_of(run, name)) for run in runs):
        raise _wrong(text, f"a name that stands for a number before {sign}")
    return Condition(name, sign, value)


def _wrong(text: str, expected: str) -> UsageError:
    return UsageError(f"wrong --where: found {quoted(text)}, expected {expected}", hint=_EXAMPLE)


def _parse_value(text: str, whole: str, spaces: str) -> Any:
    if not text:
        raise UsageError(f"wrong --where: found no value in {quoted(whole)}", hint='an empty string is written name=""')
    if text == UNSET:
        return ABSENT
    try:
        table = plain(tomllib.loads(f"value = {text}"))
    except (NoetherError, ValueError, RecursionError):  # no TOML, or more than a spec may hold
        table = {}
    if table.keys() == {"value"}:
        return table["value"]
    if text[0] in "\"'[{" or "\n" in text:
        raise UsageError(
            f"wrong --where: found {quoted(text)}, expected a value in TOML",
            hint='words in brackets need quotes: ["a", "b"]',
        )
    if any(letter.isspace() and letter not in spaces for letter in text):
        raise UsageError(
            f"wrong --where: found {quoted(whole)}, expected one condition with one value",
            hint='repeat --where for another condition; a text with spaces needs quotes: name="two words"',
        )
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_order(runs: Iterable[RunSummary], name: str) -> list[RunSummary]:
    """Return runs in the order of a name, from high to low if it begins with `-`; those without a value come last."""
    wanted, falls = name.removeprefix("-"), name.startswith("-")

    def has(run: RunSummary) -> bool:
        value = value_of(run, wanted)
        return value is not ABSENT and not (isinstance(value, float) and math.isnan(value))

    def place(run: RunSummary) -> tuple[bool, Any, str]:
        value = value_of(run, wanted)
        return (False, value, "") if _is_number(value) else (True, 0, str(value))

    known = list(runs)
    return [*sorted(filter(has, known), key=place, reverse=falls), *(run for run in known if not has(run))]


@dataclass(frozen=True)
class RunTable:
    """Runs as rows, with the columns in which they differ.

    Attributes:
        runs: The runs.
        settings: Values of each setting that is not the same in all runs, in the order of the runs.
        metrics: Keys of the metrics to show.
    """

    runs: Sequence[RunSummary]
    settings: dict[str, list[Any]] = field(default_factory=dict)
    metrics: Sequence[str] = ()


def table_of(runs: Sequence[RunSummary], metrics: Sequence[str] = ()) -> RunTable:
    """Return the table of some runs.

    Args:
        runs: The runs, in the order of the rows.
        metrics: Keys of the metrics to show; the main evaluation metrics by default.

    Raises:
        UsageError: if no run has one of the metrics.
    """
    for key in metrics:
        if runs and not any(run.evaluated(key) for run in runs):
            raise no_such_metric(key, list(dict.fromkeys(one.key for run in runs for one in run.evaluations)))
    readable = [run.tables for run in runs if run.tables]
    differing = differing_settings(readable) if readable else {}
    rows = {id(tables): row for row, tables in enumerate(readable)}
    settings = {
        key: [values[rows[id(run.tables)]] if run.tables else ABSENT for run in runs]
        for key, values in differing.items()
        if key not in _OF_THE_PLACE
    }
    return RunTable(runs, settings, metrics or main_metrics(runs))


def main_metrics(runs: Sequence[RunSummary], most: int = 2) -> list[str]:
    """Return the evaluation metrics that say most about the runs.

    First those that specs expect or compare, then those that are no losses, then total losses; of each those that more
    runs have, and those of the weights before those of averages.
    """
    wanted = {key for run in runs for key in compared_metrics(run)}
    counts: dict[str, int] = {}
    for key in (one.key for run in runs for one in run.evaluations if one.direction):
        counts[key] = counts.get(key, 0) + 1

    def place(key: str) -> tuple[bool, bool, bool, int]:
        return key not in wanted, "=" in key.split("/")[0], key.startswith("loss/"), -counts[key]

    chosen = [key for key in counts if not key.startswith("loss/") or key.endswith("/total") or key in wanted]
    return sorted(chosen or counts, key=place)[:most]


def compared_metrics(run: RunSummary) -> list[str]:
    """Return the metrics that the spec of a run expects, or by which it chooses checkpoints or stops."""
    expected, trainer = run.tables.get("expect"), run.tables.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    tables = [table for table in callbacks or () if isinstance(table, dict)] if isinstance(callbacks, list) else []
    keys = [*(expected if isinstance(expected, dict) else ()), *(table.get("metric_key") for table in tables)]
    return [key for key in keys if isinstance(key, str)]


def next_commands(run: RunSummary) -> list[str]:
    """Return the commands that go on with a run in its state."""
    name = run_argument(run)
    usable = [one for one in run.checkpoints if one.manifest is not None]
    commands = []
    if usable:
        chosen = next((one for key in main_metrics([run]) if (one := run.evaluated(key)) and one.checkpoint), None)
        is_last = chosen is None or chosen.checkpoint == usable[-1].name
        option = "" if chosen is None or is_last else f" --checkpoint {shlex.quote(chosen.checkpoint or '')}"
        files = "--data FILE --out predictions.csv"
        commands += [f"noether eval {name}{option}", f"noether predict {name}{option} {files}"]
    if run.status in ("FAILED", "KILLED") and any(one.resumable for one in run.checkpoints):
        commands.append(f"noether resume {name}")
    if run.tables:
        commands += [f"noether runs report {name}", f"noether runs compare {name} OTHER"]
    return commands


def run_argument(run: RunSummary) -> str:
    """Return the argument that names a run in a command."""
    return shlex.quote(str(shown_path(run.paths.run_path)))
