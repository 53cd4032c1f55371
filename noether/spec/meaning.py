"""What a valid spec may still get wrong: metrics that nobody logs, intervals that never fire, properties that are not.

Everything here follows from the validated spec and from what the classes that it names say about themselves; nothing
is built or loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from noether.spec.finding import Finding
from noether.spec.interval_checks import counter_of, interval_findings
from noether.spec.limits import MAX_PROBLEMS
from noether.spec.metric_checks import metric_findings
from noether.spec.metric_flow import metric_flow
from noether.spec.model import RunSpec
from noether.spec.problem import Problem
from noether.spec.property_checks import property_findings


def meaning_problems(spec: RunSpec, *, plugins: Sequence[str] = ()) -> list[Problem]:
    """Return what is certain to go wrong, as much of it as is shown.

    Args:
        spec: A valid spec whose callbacks have their ids.
        plugins: Run plugins beside those that the spec uses.
    """
    certain = (problem for problem, certain in _findings(spec, plugins) if certain)
    return list(islice(certain, MAX_PROBLEMS))


def meaning_notes(spec: RunSpec, *, plugins: Sequence[str] = ()) -> list[Problem]:
    """Return what looks wrong and may be meant, or be right because somebody does not say what it logs."""
    return [problem for problem, certain in _findings(spec, plugins) if not certain]


def _findings(spec: RunSpec, plugins: Sequence[str]) -> Iterator[Finding]:
    counter = counter_of(spec)
    flow = metric_flow(spec, end_update=counter.end_update if counter else None, plugins=plugins)
    yield from metric_findings(flow, spec.expect)
    yield from interval_findings(spec, counter)
    yield from property_findings(spec)
