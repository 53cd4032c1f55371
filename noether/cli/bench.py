"""`noether bench`: measure what an update of a spec costs."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import counted, print_facts, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from noether.runs.measure.bench import Bench, Timing
    from noether.runs.measure.hook_costs import CallbackCost

app = verbs()
_DEAREST = 3
_SMALLEST = 0.05  # µs an update: hooks that take less are counted together

Updates = Annotated[
    int | None,
    typer.Option(metavar="N", min=10, help="Train this many updates.", show_default="some seconds, at most 2,000"),
]
FailOver = Annotated[
    float | None,
    typer.Option(
        metavar="RATIO",
        min=0.0,
        help="Exit with 1 if an update takes more than RATIO times as long as in the bare loop.",
        show_default=False,
    ),
]
Compare = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Exit with 1 if the ratio, Python calls or waits grew since FILE, an earlier output of --json.",
        show_default=False,
    ),
]


@verb(app, "bench", example="noether bench specs/experiment.toml --fail-over 1.3")
def bench(
    spec: Spec,
    options: SpecOptions,
    updates: Updates = None,
    fail_over: FailOver = None,
    compare: Compare = None,
    as_json: AsJson = False,
) -> None:
    """Measure what an update of SPEC costs, beside a bare loop.

    The loop has the same model, loss, optimizer and data. Both train in turns in this process, in a temporary
    folder and without trackers; the quickest turns count. Then it measures the hooks of each callback and run
    plugin. A ratio that is too high is measured three times.

    Exit codes: 0 done, 1 dearer than --fail-over or --compare allow, 2 wrong spec or usage.
    """
    from noether.runs.measure.bench import bench as measure
    from noether.runs.measure.compare import Former
    from noether.spec.load import load_spec

    former = None if compare is None else Former.read(compare)

    def is_enough(timing: Timing) -> bool:
        is_quick = fail_over is None or timing.ratio <= fail_over
        return is_quick and (former is None or former.allows(timing))

    loaded = load_spec(spec, options.overrides, trust=options.trusted, plugins=options.plugins)
    if former is not None:
        former.require_same(loaded.spec.name, updates)
    found = measure(loaded, options.plugins, updates=updates, is_enough=is_enough)
    record = {**found.record(), "wanted": updates}  # None: as many as fit into some seconds
    print_json(record) if as_json else _print_bench(found, record)
    failures = [] if former is None else [f"{line} (compared with {former.path})" for line in former.growth(record)]
    if fail_over is not None and found.timing.ratio > fail_over:
        failures.insert(
            0,
            f"the ratio is {found.timing.ratio:.2f}, allowed up to {fail_over:g}; "
            f"dearest: {_dearest(_of_slices(found))}",
        )
    if former is not None and (other := former.other_machine(record["machine"])):
        say(
            f"note: {former.path} is of another machine or other versions ({other}): ratios differ there",
            to_stderr=True,
        )
    if former is not None and former.limit(found.timing.noise) == inf:
        say(
            "note: the ratio is not compared, since too few slices were timed to know its noise: raise --updates",
            to_stderr=True,
        )
    for failure in failures:
        say(f"error: {failure}", to_stderr=True)
    if former is not None and not failures and not as_json:
        limit = former.limit(found.timing.noise)
        allowed = "" if limit == inf else f", allowed up to {limit:.2f}"
        say(f"\nnothing grew since {former.path}, where the ratio is {former.record['ratio']:.2f}{allowed}")
    raise typer.Exit(1 if failures else 0)


def _print_bench(found: Bench, record: dict[str, Any]) -> None:
    from noether.runs.measure.hook_costs import in_us

    timing = found.timing
    noise = "unknown" if timing.noise is None else f"{timing.noise:.0%}"
    say(
        f"{found.name}: an update takes {in_us(timing.update_us)} µs, the bare loop {in_us(timing.bare_us)} µs: "
        f"ratio {timing.ratio:.2f}, noise {noise}"
    )
    print_facts(_facts(found, record["machine"]).items(), indent="  ")
    say(f"\nhooks of an update, which takes {in_us(found.mean_us)} µs as a mean with evaluation and boundaries")
    shown = [one for one in found.callbacks if one.us >= _SMALLEST or one.waits]
    print_table([_row(one) for one in shown], indent="  ")
    if len(shown) < len(found.callbacks):
        say(f"  and {counted(len(found.callbacks) - len(shown), 'hook')} below {_SMALLEST} µs")
    for name, update in found.not_called.items():
        say(f"not measured: {name} acts first {'later' if update is None else f'after update {update:,}'}")


def _facts(found: Bench, machine: dict[str, Any]) -> dict[str, str]:
    timing = found.timing
    ours, bare = timing.python_calls
    of_all = f"{timing.updates:,} of {counted(found.end_update, 'update')}"
    return {
        "dearest callbacks": _dearest(found.callbacks),
        "measured": f"{of_all}; {counted(timing.slices, 'slice')} of {timing.slice_updates} each were timed",
        "weights": timing.difference or "equal to those of the bare loop, bit by bit",
        "Python calls": f"{ours:.1f} an update, {bare:.1f} in the bare loop",
        "machine": ", ".join(f"{part} {value}" for part, value in machine.items()),
    }


def _of_slices(found: Bench) -> list[CallbackCost]:
    """Return the hooks that each slice calls: the others, such as evaluation, are not in the ratio."""
    return [one for one in found.callbacks if one.calls * found.timing.slice_updates >= 1]


def _dearest(callbacks: Iterable[CallbackCost]) -> str:
    from noether.runs.measure.hook_costs import dearest, in_us

    named = [f"{name} {in_us(us)} µs" for name, us in list(dearest(callbacks).items())[:_DEAREST]]
    return ", ".join(named) or "no callback has a hook"


def _row(cost: CallbackCost) -> dict[str, str]:
    from noether.runs.measure.hook_costs import cells

    return {**cells(cost), "allocations": _count(cost.allocations), "waits": _count(cost.waits)}


def _count(number: float | None) -> str:
    return "not counted" if number is None else f"{number:.3g}"
