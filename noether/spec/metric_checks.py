"""Checks of metrics: each metric that is read or expected is logged in time and has a direction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from noether.config.base import component_of
from noether.config.components import CallBackBaseConfig
from noether.config.metric_facts import Direction, MetricFacts, intervals_of, key_matches, metric_direction
from noether.kernel.names import did_you_mean, listed
from noether.kernel.progress import EVERY, Intervals
from noether.spec.errors.problem import Finding, Problem
from noether.spec.errors.words import quoted
from noether.spec.fields import configs_in
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec


@dataclass(frozen=True)
class Actor:
    """A callback of the run and its declared metrics.

    Attributes:
        name: Its id.
        path: Its path in the spec; None for a default callback.
        config: Its config.
        target: Its class.
        position: Its position in the order of the spec.
        intervals: Its intervals; a child that its parent calls has the parent's.
        one_shot: True if it is called only before training.
        prefixes: Prefixes that its parents add to its metric keys, one for each set of children.
        produced: The metric keys that it logs, with prefixes; `*` stands for anything.
        complete: True if `produced` has all of them.
    """

    name: str
    path: TomlPath | None
    config: CallBackBaseConfig
    target: Any
    position: int
    intervals: Intervals
    one_shot: bool
    prefixes: tuple[str, ...]
    produced: tuple[str, ...]
    complete: bool

    @property
    def moment(self) -> tuple[int, int]:
        """Its order within a round: intervals in epochs fire after the others, each in the order of the spec."""
        return int(self.intervals.every_n_epochs is not None), self.position

    def logs(self, key: str) -> bool:
        """Return True if it logs this metric."""
        return any(key_matches(pattern, key) for pattern in self.produced)

    def reads(self, key: str) -> bool:
        """Return True if it reads this metric."""
        wanted = self.target.consumed_metrics(self.config)
        return any(prefix + one == key for prefix in self.prefixes for one in wanted)


@dataclass(frozen=True)
class MetricFlow:
    """All callbacks of a run, in the order of the spec.

    Attributes:
        actors: The callbacks.
        silent: Names of callbacks, plugins and the trainer that do not declare all of their metrics.
    """

    actors: tuple[Actor, ...]
    silent: tuple[str, ...]

    def producers(self, key: str) -> list[Actor]:
        """Return the callbacks that log a metric."""
        return [actor for actor in self.actors if actor.logs(key)]

    def known_keys(self, besides: str) -> list[str]:
        """Return the logged metric keys, the user's callbacks first; `*` stands for a part unknown before the run.

        Args:
            besides: A metric that is missing; what its readers make of it is left out.
        """
        actors = [actor for actor in self.actors if not actor.reads(besides)]
        actors.sort(key=lambda actor: actor.path is None)
        return list(dict.fromkeys(pattern for actor in actors for pattern in actor.produced))

    @property
    def directions(self) -> list[tuple[str, Direction]]:
        """The directions that callbacks declare for their metrics, by pattern."""
        return [(p.lower(), d) for each in self.actors for p, d in each.target.metric_directions(each.config).items()]

    def owner_of(self, child: Actor) -> Actor | None:
        """Return the parent of a nested callback."""
        return next((actor for actor in self.actors if child.path and actor.path == child.path[:-2]), None)


def metric_flow(spec: RunSpec, *, end_update: int | None = None, plugins: Sequence[str] = ()) -> MetricFlow:
    """Return the metrics that the classes of a spec declare; nothing is built.

    Args:
        spec: A valid spec.
        end_update: Updates of the run, if known.
        plugins: Run plugins in addition to those of the spec; their metrics are unknown.
    """
    trainer = component_of(spec.trainer).target
    losses = trainer.loss_names(spec.trainer) if _declares(trainer, "loss_names") else None
    facts = MetricFacts(losses, tuple(spec.datasets))
    silent = [f"the plugin '{name}'" for name in (*spec.plugins.use, *plugins)]
    try:
        around = trainer.default_callback_configs(spec.trainer, end_update)
    except ValidationError:  # a default callback is not installed, which building the run reports
        around = None
    if around is None:
        silent.append(f"the trainer '{spec.trainer.kind}'")
    before, after = around or ([], [])
    users = [(("trainer", "callbacks", index), config) for index, config in enumerate(spec.trainer.callbacks or [])]
    everyone = [*((None, config) for config in before), *users, *((None, config) for config in after)]
    actors: list[Actor] = []
    for path, config in everyone:
        actors += _family(config, path, len(actors), facts, ("",), None)
    silent += [f"'{actor.name}'" for actor in actors if not actor.complete]
    return MetricFlow(tuple(actors), tuple(dict.fromkeys(silent)))


def _family(
    config: CallBackBaseConfig,
    path: TomlPath | None,
    position: int,
    facts: MetricFacts,
    prefixes: tuple[str, ...] | None,
    triggered_by: Intervals | None,
) -> list[Actor]:
    """Return a callback and its children from `position` on, children first, since their parent calls them."""
    target = component_of(config).target
    intervals = triggered_by or intervals_of(config)
    below = target.child_metric_prefixes(config)
    known = None if below is None or prefixes is None else tuple(a + b for a in prefixes for b in below)
    family: list[Actor] = []
    trigger = None if config.children_need_interval else intervals
    for place, child in _children(config, path):
        family += _family(child, place, position + len(family), facts, known, trigger)
    declared = target.produced_metrics(config, facts)
    parent = Actor(
        name=config.id or config.kind,
        path=path,
        config=config,
        target=target,
        position=position + len(family),
        intervals=intervals,
        one_shot=not config.needs_interval and triggered_by is None and not hasattr(target, "after_update"),
        prefixes=prefixes or (),
        produced=tuple(prefix + pattern for prefix in prefixes or ("*",) for pattern in declared or ()),
        complete=declared is not None and prefixes is not None and _declares(target, "produced_metrics"),
    )
    return [*family, parent]


def _children(
    config: CallBackBaseConfig, path: TomlPath | None
) -> Iterator[tuple[TomlPath | None, CallBackBaseConfig]]:
    for field in type(config).model_fields:
        value = getattr(config, field)
        for index, child in enumerate(value if isinstance(value, list) else ()):
            if isinstance(child, CallBackBaseConfig):
                yield (None if path is None else (*path, field, index)), child


def _declares(target: Any, declaration: str) -> bool:
    """Return True if a class itself makes a declaration: an inherited one is about another class."""
    return declaration in vars(target)


BEST = "best/"
"""Prefix of a metric key in `[expect]`: the best value of the run in place of the final one."""
_TWICE = ("logged here", "and here")
_LABELS = ("read here", "logged here")
_SHOWN = 8  # metric keys in a hint


def metric_findings(flow: MetricFlow, expected: Iterable[str]) -> Iterator[Finding]:
    """Yield the problems of metrics that callbacks read and that `[expect]` names.

    Args:
        flow: The metrics of the callbacks.
        expected: The keys of `[expect]`.
    """
    yield from _logged_twice(flow)
    for actor in flow.actors:
        yield from _reads(actor, flow)
        yield from _directions(actor, flow)
    for key in expected:
        yield from _expectation(key, flow)


def _logged_twice(flow: MetricFlow) -> Iterator[Finding]:
    """Yield callbacks that log a metric of another callback: its readers would read the one that comes last.

    A default callback logs the same values as one of its kind in the spec, and so does the same measurement at other
    intervals.
    """
    first: dict[str, Actor] = {}
    reported = set()
    for actor in (actor for actor in flow.actors if actor.path is not None):
        for key in actor.produced:
            one = first.setdefault(key, actor)
            if one is actor or (one.position, actor.position) in reported or _is_same_at_other_times(one, actor):
                continue
            reported.add((one.position, actor.position))
            places = tuple(each.path for each in (actor, one) if each.path is not None)
            message = f"'{actor.name}' logs the metric {quoted(key)}, which '{one.name}' logs too"
            hint = "remove one of them, or let it measure something else, such as another data set"
            yield Finding(Problem("duplicate-metric", places[0], message, hint, at=places, labels=_TWICE), certain=True)


def _is_same_at_other_times(one: Actor, other: Actor) -> bool:
    of_schedule = {"id", *EVERY}
    settings = [actor.config.model_dump(exclude=of_schedule) for actor in (one, other)]
    return one.target is other.target and settings[0] == settings[1] and one.intervals != other.intervals


def _reads(actor: Actor, flow: MetricFlow) -> Iterator[Finding]:
    """Yield metrics that a callback reads and that are not logged before it in the same round.

    A nested callback makes a mistake in each set of children; it is reported once.
    """
    for wanted in actor.target.consumed_metrics(actor.config):
        found = (_read(actor, prefix, wanted, flow) for prefix in actor.prefixes)
        yield from islice(filter(None, found), 1)


def _read(actor: Actor, prefix: str, wanted: str, flow: MetricFlow) -> Finding | None:
    path, key = _place(actor, wanted), prefix + wanted
    producers = [one for one in flow.producers(key) if one is not actor]
    if not producers:
        owner = flow.owner_of(actor)
        if owner is not None and any(one and wanted.startswith(one) for one in actor.prefixes):
            return Finding(_prefixed(path, wanted, owner), not flow.silent)
        return unproduced(path, f"reads the metric {quoted(key)}", wanted, flow, inside=prefix)
    if any(one.moment < actor.moment and _covers(one, actor) for one in producers):
        return None
    message, hint = _too_late(actor, producers)
    both = (path, *(one.path for one in producers if one.path is not None))
    text = f"reads the metric {quoted(key)}, {message}"
    problem = Problem("late-metric", path, text, hint, at=both, labels=_LABELS)
    return Finding(problem, not flow.silent)


def schedule_findings(spec: RunSpec, flow: MetricFlow) -> Iterator[Finding]:
    """Yield the problems of metrics that schedules of optimizers follow."""
    for path, config in configs_in(spec.model, ("model",)):
        if config.role != "schedule":
            continue
        consumed = getattr(component_of(config).target, "consumed_metrics", None)
        for key in consumed(config) if consumed is not None else ():
            place = (*path, "metric_key") if getattr(config, "metric_key", None) == key else path
            producers = flow.producers(key)
            if not producers:
                yield unproduced(place, f"follows the metric {quoted(key)}", key, flow)
            else:
                yield from _too_rare(spec, config, place, key, producers)
            if getattr(config, "higher_is_better", False) is None and (why := no_direction(key, flow.directions)):
                hint = "set higher_is_better = true or higher_is_better = false"
                yield Finding(Problem("unknown-direction", place, f"the metric {quoted(key)} {why}", hint))


def _too_rare(spec: RunSpec, config: Any, path: TomlPath, key: str, producers: Sequence[Actor]) -> Iterator[Finding]:
    """Yield that a metric is logged before training only, or less often than the patience of a schedule needs."""
    names = _listed([f"'{one.name}'" for one in producers])
    if all(one.one_shot for one in producers):
        message = f"follows the metric {quoted(key)}, which {names} logs once, before training"
        yield Finding(Problem("late-metric", path, message, "follow a metric that is logged in every round"))
        return
    values = [_firings(one.intervals, spec.trainer) for one in producers if not one.one_shot]
    needed = getattr(config, "patience", -2) + 2  # one to compare with, and one more than are tolerated
    if None not in values and (most := sum(value or 0 for value in values)) < needed:
        message = f"follows the metric {quoted(key)}, which {names} logs {most} times in this run: too rarely, with "
        message += f"patience = {needed - 2} nothing changes before value {needed}"
        problem = Problem("late-metric", path, message, "lower patience, or log the metric more often")
        yield Finding(problem, certain=False)


def _firings(intervals: Intervals, trainer: Any) -> int | None:
    """Return how often an interval fires in the run; None if that depends on the size of the data."""
    for unit in EVERY:
        limit, n = getattr(trainer, unit.replace("every_n", "max")), getattr(intervals, unit)
        if n is not None and limit is not None:
            return int(limit // n)
    return None


def _prefixed(path: TomlPath, wanted: str, owner: Actor) -> Problem:
    kind = owner.config.kind
    message = f"reads the metric {quoted(wanted)} with the prefix of the {kind} that this callback is nested in"
    hint = f"remove the prefix: inside of this {kind}, keys are those of its own metrics"
    return Problem("unlogged-metric", path, message, hint)


def unproduced(path: TomlPath, reads: str, key: str, flow: MetricFlow, *, inside: str = "") -> Finding:
    """Return the finding that nothing logs a metric, with the metrics that are logged.

    Args:
        path: The path of the metric key in the spec.
        reads: The beginning of the message, with the whole key.
        key: The key as the spec names it.
        flow: The metrics of the callbacks.
        inside: Prefix that all keys have at this path, and that the spec leaves out.
    """
    everything = flow.known_keys(besides=inside + key)
    known = [pattern.removeprefix(inside) for pattern in everything if pattern.startswith(inside)]
    message = f"{reads}, which nothing logs.{did_you_mean(key, known)}"
    on_key = path[:1] == ("expect",)  # there the metrics are keys
    if flow.silent:
        may = f"{_listed(flow.silent)} may log it, without declaring it in produced_metrics"
        problem = Problem("unlogged-metric", path, f"{message} {may}", on_key=on_key)
        return Finding(problem, certain=False)
    there = " there" if inside else ""
    hint = f"logged{there} are {listed(known, _SHOWN)}" if known else f"add a callback that logs it{there}"
    return Finding(Problem("unlogged-metric", path, message, hint, on_key=on_key))


def _covers(producer: Actor, consumer: Actor) -> bool:
    """Return False if the intervals show that the producer misses a round of the consumer."""
    if producer.one_shot:
        return False
    made, read = producer.intervals, consumer.intervals
    for unit in EVERY:
        n, m = getattr(made, unit), getattr(read, unit)
        if n is not None and m is not None:
            return bool(m % n == 0)
    return True  # in other units it depends on the size of the data


def _too_late(actor: Actor, producers: Sequence[Actor]) -> tuple[str, str]:
    names = _listed([f"'{one.name}'" for one in producers])
    if all(one.one_shot for one in producers):
        return f"which {names} logs once, before training", "read a metric that is logged in every round"
    if not any(one.moment < actor.moment for one in producers):
        if all(one.moment[0] > actor.moment[0] for one in producers):
            why = "is called after it: intervals in epochs fire after the others"
            return f"but {names}, which logs it, {why}", "give both an interval in epochs"
        return f"but {names}, which logs it, comes after it", f"place it after {names}"
    return (
        f"but {names} logs it at {_listed([one.intervals.verbose for one in producers])} and "
        f"'{actor.name}' reads it at {actor.intervals.verbose}",
        "give both the same interval",
    )


def _directions(actor: Actor, flow: MetricFlow) -> Iterator[Finding]:
    for key in actor.target.compared_metrics(actor.config):
        if (why := no_direction(key, flow.directions)) is not None:
            hint = "set higher_is_better = true or higher_is_better = false"
            message = f"the metric {quoted(key)} {why}"
            yield Finding(Problem("unknown-direction", _place(actor, key), message, hint))


def no_direction(key: str, declared: Sequence[tuple[str, Direction]] = ()) -> str | None:
    """Return why values of a metric cannot be compared; None if they can."""
    direction = metric_direction(key, declared)
    if direction is None:
        return "has no known direction: it may be better higher or lower"
    return "is neither good nor bad" if direction == "neutral" else None


def _expectation(key: str, flow: MetricFlow) -> Iterator[Finding]:
    wanted = key.removeprefix(BEST)
    if flow.producers(key):
        return
    if wanted == key or not flow.producers(wanted):
        yield unproduced(("expect", key), f"expects the metric {quoted(wanted)}", wanted, flow)
    elif (why := no_direction(wanted, flow.directions)) is not None:
        hint = f"expect the final value: {quoted(wanted)} = {{ … }}"
        message = f"no best value: the metric {quoted(wanted)} {why}"
        yield Finding(Problem("unknown-direction", ("expect", key), message, hint))


def _place(actor: Actor, value: str) -> TomlPath:
    """Return the path at which a callback names a metric."""
    for field, held in actor.config:
        if held == value:
            return *(actor.path or ()), field
        if isinstance(held, list) and value in held:
            return *(actor.path or ()), field, held.index(value)
    return actor.path or ()


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
