"""The trials of a sweep: values from the `[sweep]` table, the metric that compares them, and checks of both."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from random import Random
from typing import Any

from noether.config.components import SWEEP_DRAWS, SWEEP_SETTINGS, SweepTable
from noether.config.metric_facts import metric_direction
from noether.errors import SpecError
from noether.spec.errors.problem import Finding, InvalidSpecError, Problem
from noether.spec.errors.words import described, listed, quoted, toml_key, toml_literal
from noether.spec.locate import TomlPath
from noether.spec.metric_checks import MetricFlow, no_direction, unproduced
from noether.spec.model import RunSpec
from noether.spec.read.overrides import parse_path

MOST_TRIALS = 10_000
_DIGITS = 6
"""Significant digits of drawn numbers: short to read, and the same on machines whose logarithms differ in the last."""
_OF_THE_SWEEP = ("output", "sweep")
"""Keys that the sweep itself reads, once for all trials."""
_MACHINERY = ("optim/", "profiling/", "data/", "model/", "stability/")


@dataclass(frozen=True, slots=True)
class Swept:
    """A path of the spec with the values that it takes.

    Attributes:
        path: The path, as `-s` takes it.
        at: Its place in the spec.
        draw: `choice`, or the name of a distribution of numbers.
        values: The values to choose from, or the two bounds.
        is_list: True if the spec has a plain list, which a grid needs.
    """

    path: str
    at: TomlPath
    draw: str
    values: tuple[Any, ...]
    is_list: bool = False

    def at_share(self, share: float) -> Any:
        """Return the value at a number of [0, 1), which stands for the share of the values that lie below."""
        if self.draw == "choice":
            return self.values[int(share * len(self.values))]
        low, high = self.values
        if self.draw == "int_uniform":
            return min(high, low + int(share * (high - low + 1)))
        if self.draw == "log_uniform":
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        return min(max(float(f"{value:.{_DIGITS}g}"), low), high)

    def allows(self, value: Any) -> bool:
        """Return True if the path may take a value."""
        if self.draw == "choice":
            return any(_same(value, one) for one in self.values)
        is_number = isinstance(value, int if self.draw == "int_uniform" else int | float)
        return is_number and not isinstance(value, bool) and self.values[0] <= value <= self.values[1]


def _same(left: Any, right: Any) -> bool:
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def key_of(values: Mapping[str, Any]) -> str:
    """Return the identity of a trial: its values as text, whatever the order of the paths."""
    return json.dumps(values, sort_keys=True)


def arguments_of(values: Mapping[str, Any]) -> list[str]:
    """Return the values of a trial as arguments of `-s`."""
    return [f"{path}={toml_literal(value)}" for path, value in values.items()]


def options_of(values: Mapping[str, Any]) -> list[str]:
    """Return the values of a trial as options of a command line."""
    return [part for argument in arguments_of(values) for part in ("-s", argument)]


def swept_paths(table: SweepTable) -> list[Swept]:
    """Return the paths of a sweep, in the order of the spec.

    Raises:
        InvalidSpecError: if a value of the table is neither a list nor a draw; with all problems.
    """
    found = list(_swept(table.model_extra or {}, (), ""))
    problems = [one for one in found if isinstance(one, Problem)]
    if problems:
        raise InvalidSpecError(problems, origin="[sweep]")
    return [one for one in found if isinstance(one, Swept)]


def _swept(tables: Mapping[str, Any], at: TomlPath, before: str) -> Iterator[Swept | Problem]:
    for key, value in tables.items():
        place = ("sweep", *at, key)
        path = f"{before}.{toml_key(key)}" if before else key if not at else toml_key(key)
        if isinstance(value, dict) and value and not set(value) & set(SWEEP_DRAWS):
            yield from _swept(value, (*at, key), path)  # `model.optimizer.lr = […]` without quotes
            continue
        found = _one(path, place, value)
        try:
            if parse_path(path)[0] in _OF_THE_SWEEP:
                message = f"found {path}, expected a path in which trials may differ: they share {_OF_THE_SWEEP[0]}"
                found = Problem("conflicting-keys", place, message, "set it outside of [sweep]", on_key=True)
        except SpecError as error:
            message = error.problems[0].message if isinstance(error, InvalidSpecError) else error.message
            found = Problem("unknown-path", place, message, 'write a path: "model.optimizer.lr" = […]', on_key=True)
        yield found


def _one(path: str, at: TomlPath, value: Any) -> Swept | Problem:
    """Return one path with its values, or the problem of its value."""
    example = f"write a list, or one of {listed(f'{{ {draw} = […] }}' for draw in SWEEP_DRAWS)}"
    if isinstance(value, list):
        if not value:
            return Problem("out-of-range", at, "found an empty list, expected at least one value", example)
        return Swept(path, at, "choice", tuple(value), is_list=True)
    if not isinstance(value, dict) or len(value) != 1:
        found = f"a table with {listed(value) or 'nothing in it'}" if isinstance(value, dict) else described(value)
        return Problem("wrong-type", at, f"found {found}, expected a list of values or one draw", example)
    ((draw, given),) = value.items()
    at = (*at, draw)
    if not isinstance(given, list) or not given:
        message = f"found {described(given)}{' without values' * (given == [])}, expected a list"
        return Problem("wrong-type", at, message, example)
    if draw != "choice" and (wrong := _wrong_bounds(draw, given)) is not None:
        return Problem("wrong-value", at, wrong, f"for example {draw} = {_EXAMPLES[draw]}")
    return Swept(path, at, draw, tuple(given))


_EXAMPLES = {"uniform": "[0.0, 0.5]", "log_uniform": "[1e-4, 1e-1]", "int_uniform": "[1, 8]"}


def _wrong_bounds(draw: str, given: Sequence[Any]) -> str | None:
    kind, name = (int, "integers") if draw == "int_uniform" else (int | float, "numbers")
    are_numbers = all(isinstance(one, kind) and not isinstance(one, bool) and math.isfinite(one) for one in given)
    if len(given) != 2 or not are_numbers:
        return f"found {toml_literal(given)}, expected two {name}: the lowest and the highest value"
    if given[0] >= given[1]:
        return f"found {toml_literal(given)}, expected the lower bound first"
    if draw == "log_uniform" and given[0] <= 0:
        return f"found the lower bound {given[0]}, expected one above 0"
    return None


def method_of(table: SweepTable, swept: Sequence[Swept]) -> str:
    """Return the method of a sweep: that of the settings, else a grid if all values are plain lists."""
    return table.settings.method or ("grid" if all(one.is_list for one in swept) else "random")


def grid(swept: Sequence[Swept]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the values; the last path changes fastest."""
    for values in product(*(one.values for one in swept)):
        yield dict(zip((one.path for one in swept), values, strict=True))


def drawn(swept: Sequence[Swept], seed: int, number: int) -> dict[str, Any]:
    """Return the values of one random trial: a pure function of the seed, its number and each path."""
    return {one.path: one.at_share(Random(f"{seed}/{number}/{one.path}").random()) for one in swept}


def known_trials(table: SweepTable) -> list[dict[str, Any]] | None:
    """Return the values of all trials without repetitions; None if a sampler chooses them while the sweep runs.

    Raises:
        InvalidSpecError: if the table is invalid.
    """
    swept, settings = swept_paths(table), table.settings
    method = method_of(table, swept)
    if method == "optuna":
        return None
    if method == "grid":
        every = list(islice(grid(swept), MOST_TRIALS))
    else:
        every = [drawn(swept, settings.seed, number) for number in range(1, (settings.trials or 0) + 1)]
    return list({key_of(values): values for values in every}.values())


# Checks


def sweep_findings(spec: RunSpec, flow: MetricFlow) -> Iterator[Finding]:
    """Yield the problems of the `[sweep]` table.

    Args:
        spec: A valid spec.
        flow: The metrics of its callbacks.
    """
    if spec.sweep is None:
        return
    try:
        swept = swept_paths(spec.sweep)
    except InvalidSpecError as error:
        yield from map(Finding, error.problems)
        return
    yield from map(Finding, _wrong_settings(spec.sweep, swept))
    metric, at = spec.sweep.settings.metric, ("sweep", SWEEP_SETTINGS, "metric")
    if metric is None:
        return
    if not flow.producers(metric):
        yield unproduced(at, f"compares the metric {quoted(metric)}", metric, flow)
    elif spec.sweep.settings.direction is None and (why := no_direction(metric, flow.directions)) is not None:
        hint = 'set direction = "lower" or direction = "higher"'
        yield Finding(Problem("unknown-direction", at, f"the metric {quoted(metric)} {why}", hint))


def _wrong_settings(table: SweepTable, swept: Sequence[Swept]) -> Iterator[Problem]:
    settings, at = table.settings, ("sweep", SWEEP_SETTINGS)
    if not swept:
        hint = 'for example "model.optimizer.lr" = [1e-3, 1e-2]'
        yield Problem("missing-key", ("sweep",), "no path in [sweep], expected at least one", hint)
        return
    method, is_given = method_of(table, swept), settings.method is not None
    if method == "grid":
        for one in swept:
            if one.draw != "choice":
                hint = 'give it a list of values, or set method = "random" with trials = 20'
                yield Problem("wrong-value", one.at, f"a grid has no {one.draw}: expected a list of values", hint)
        if math.prod(len(one.values) for one in swept if one.draw == "choice") > MOST_TRIALS:
            message = f"too many combinations: found more than {MOST_TRIALS}, expected at most that"
            yield Problem("out-of-range", ("sweep",), message, 'draw some: method = "random" with trials = 20')
        if settings.trials is not None:
            hint = 'remove trials, or set method = "random"'
            yield Problem("conflicting-keys", (*at, "trials"), "a grid has one trial for each combination", hint)
    elif settings.trials is None:
        why = "" if is_given else ", because a value is drawn"
        message = f"missing number of trials of the method {method}{why}"
        yield Problem("missing-key", at if is_given else ("sweep",), message, "trials = 20 under [sweep.settings]")
    elif settings.trials > MOST_TRIALS:
        message = f"found {settings.trials}, expected at most {MOST_TRIALS}"
        yield Problem("out-of-range", (*at, "trials"), message)


# The metric


@dataclass(frozen=True, slots=True)
class Objective:
    """The metric that compares the trials of a sweep.

    Attributes:
        metric: Its key.
        direction: Its better direction, `lower` or `higher`.
        value: The value that counts, `final` or `best`.
    """

    metric: str
    direction: str
    value: str

    @property
    def words(self) -> str:
        """The metric in words: `the final rmse/test/x, lower is better`."""
        return f"the {self.value} {self.metric}, {self.direction} is better"

    def cost(self, value: float) -> float:
        """Return a number that is lower for a better value."""
        return value if self.direction == "lower" else -value


def objective_of(spec: RunSpec, flow: MetricFlow) -> Objective:
    """Return the metric of a sweep: that of its settings, of the first callback that compares one, or the first logged.

    Raises:
        SpecError: if the spec has no such metric.
    """
    assert spec.sweep is not None, "the spec has a sweep"
    settings = spec.sweep.settings
    own = [actor for actor in flow.actors if actor.path is not None]
    followed = (
        prefix + key
        for actor in own
        if actor.config.kind in ("best-checkpoint", "metric-early-stopper")
        for prefix in actor.prefixes
        for key in actor.target.consumed_metrics(actor.config)
    )
    logged = (key for actor in own for key in actor.produced if not actor.one_shot)
    for key in [settings.metric] if settings.metric else [*followed, *logged]:
        if not settings.metric and ("*" in key or key.startswith(_MACHINERY)):
            continue
        direction = settings.direction or metric_direction(key, flow.directions)
        if direction in ("lower", "higher"):
            return Objective(key, direction, settings.value)
    raise SpecError(
        "no metric to compare trials by: found no callback that logs one, expected metric under [sweep.settings]",
        hint=f'known are {listed(flow.known_keys("")) or "none"}: name one, with direction = "lower" or "higher"',
    )
