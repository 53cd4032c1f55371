"""Metrics that are read or expected: whether somebody logs them in time, and which way they get better."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from noether.config.metric_facts import metric_direction
from noether.kernel.names import did_you_mean
from noether.spec.configs import Path
from noether.spec.finding import Finding
from noether.spec.metric_flow import Actor, MetricFlow
from noether.spec.problem import Problem, quoted

BEST = "best/"
"""Put before a metric key in `[expect]`: the best value of the run in place of the final one."""
_LABELS = ("read here", "logged here")
_SHOWN = 8  # keys in a hint: the user's own come first


def metric_findings(flow: MetricFlow, expected: Iterable[str]) -> Iterator[Finding]:
    """Yield what is wrong with the metrics that callbacks read and that `[expect]` names.

    Args:
        flow: Who logs and reads what.
        expected: The keys of `[expect]`.
    """
    for actor in flow.actors:
        yield from _reads(actor, flow)
        yield from _directions(actor)
    for key in expected:
        yield from _expectation(key, flow)


def _reads(actor: Actor, flow: MetricFlow) -> Iterator[Finding]:
    """What a callback reads has to be logged in the same round, before it is called.

    A mistake is told once, though a nested callback makes it in each set of children.
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
        return _nobody(path, f"reads the metric {quoted(key)}", wanted, flow, inside=prefix, besides=actor)
    if any(one.moment < actor.moment and _covers(one, actor) for one in producers):
        return None
    message, hint = _too_late(actor, producers)
    both = (path, *(one.path for one in producers if one.path is not None))
    problem = Problem(path, f"reads the metric {quoted(key)}, {message}", hint, at=both, labels=_LABELS)
    return Finding(problem, not flow.silent)


def _prefixed(path: Path, wanted: str, owner: Actor) -> Problem:
    kind = owner.config.kind
    message = f"reads the metric {quoted(wanted)} by its name outside of the {kind} that this callback is nested in"
    hint = f"leave out the prefix: inside of this {kind} its own metrics are meant"
    return Problem(path, message, hint)


def _nobody(
    path: Path, reads: str, key: str, flow: MetricFlow, *, inside: str = "", besides: Actor | None = None
) -> Finding:
    """Return that nothing logs a metric, with what is logged instead.

    Args:
        path: What names the metric.
        reads: What is done with it, its whole key named.
        key: The key as it is named.
        flow: Who logs what.
        inside: Where the key is named, all keys begin with this, which is left out there.
        besides: Who wants the metric; what it logs itself cannot be meant.
    """
    everything = flow.known_keys(besides=besides)
    known = [pattern.removeprefix(inside) for pattern in everything if pattern.startswith(inside)]
    message = f"{reads}, which nothing logs.{did_you_mean(key, known)}"
    if flow.silent:
        may = f"{_listed(flow.silent)} may, without saying so"
        return Finding(Problem(path, f"{message} {may}", on_key=_is_key(path)), certain=False)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    there = " there" if inside else ""
    hint = f"logged{there} are {', '.join(known[:_SHOWN])}{more}" if known else f"add a callback that logs it{there}"
    return Finding(Problem(path, message, hint, on_key=_is_key(path)))


def _is_key(path: Path) -> bool:
    """Whether it is the key at a path that names the metric, as in `[expect]`."""
    return path[:1] == ("expect",)


def _covers(producer: Actor, consumer: Actor) -> bool:
    """Whether the producer is called in every round of the consumer, as far as that can be told from the intervals."""
    if producer.one_shot:
        return False
    made, read = producer.intervals, consumer.intervals
    for unit in ("every_n_epochs", "every_n_updates", "every_n_samples"):
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


def _directions(actor: Actor) -> Iterator[Finding]:
    for key in actor.target.compared_metrics(actor.config):
        if (why := _no_direction(key)) is not None:
            hint = "set higher_is_better = true or higher_is_better = false"
            yield Finding(Problem(_place(actor, key), f"the metric {quoted(key)} {why}", hint))


def _no_direction(key: str) -> str | None:
    direction = metric_direction(key)
    if direction is None:
        return "has no known direction: it may be better higher or lower"
    return "is neither good nor bad" if direction == "neutral" else None


def _expectation(key: str, flow: MetricFlow) -> Iterator[Finding]:
    wanted = key.removeprefix(BEST)
    if flow.producers(key):
        return
    if wanted == key or not flow.producers(wanted):
        yield _nobody(("expect", key), f"expects the metric {quoted(wanted)}", wanted, flow)
    elif (why := _no_direction(wanted)) is not None:
        hint = f"expect the final value: {quoted(wanted)} = {{ … }}"
        message = f"there is no best value: the metric {quoted(wanted)} {why}"
        yield Finding(Problem(("expect", key), message, hint))


def _place(actor: Actor, value: str) -> Path:
    """Return where in the spec a callback names a metric."""
    for field in type(actor.config).model_fields:
        held = getattr(actor.config, field)
        if held == value:
            return *(actor.path or ()), field
        if isinstance(held, list) and value in held:
            return *(actor.path or ()), field, held.index(value)
    return actor.path or ()


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
