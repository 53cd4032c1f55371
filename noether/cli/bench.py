"""`noether bench`: measure what an update of a spec costs, and compare it with an earlier measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.checkpoint.untrusted import parse_json, read_chosen
from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_facts, print_json, print_table, say
from noether.errors import UsageError
from noether.spec.errors.words import counted

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

    former = None if compare is None else Former.read(compare)

    def is_enough(timing: Timing) -> bool:
        is_quick = fail_over is None or timing.ratio <= fail_over
        return is_quick and (former is None or former.allows(timing))

    loaded = options.load(spec)
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


_ALLOWED = 0.10
"""Growth of a ratio that is never judged, as a share of it: machines of one kind differ by as much."""
_CALLS = 0.5
"""Python calls, which are counted: half a call comes of intervals that fire once more in one of the measurements."""
_WAITS = 0.01
"""Waits an update, as above."""
_NAMED = 3
_CAUSE = 0.1
"""Share of a growth below which a hook is not named as its cause."""


@dataclass(frozen=True, slots=True)
class Former:
    """A measurement that was written before by `noether bench --json`.

    Attributes:
        path: Its file.
        record: What it holds.
    """

    path: Path
    record: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Former:
        """Read a file.

        Raises:
            UsageError: if it cannot be read, or is not the output of `noether bench --json`.
        """
        hint = "write one with noether bench SPEC --json > FILE"
        try:
            record = parse_json(read_chosen(path))
            if not isinstance(record["ratio"], float) or not isinstance(record["callbacks"], list):
                raise TypeError("its ratio is not a number, or its callbacks are not a list")
            for one in record["callbacks"]:
                _key(one), float(one["us"]), float(one["calls"]), float(one["waits"] or 0)
            float(record["noise"] or 0), record["name"], record["machine"]["python"], record["machine"]["device"]
            for calls in (record["python_calls"][side] for side in ("update", "bare")):
                float(calls)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}", hint=hint) from error
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is not a measurement of noether bench: {error}", hint=hint) from error
        return cls(path, record)

    def require_same(self, name: str, updates: int | None) -> None:
        """Check that a spec of this name was measured, over as many updates.

        Args:
            name: Its name.
            updates: Updates that were asked for, if any.

        Raises:
            UsageError: if nothing can be compared: other updates call other hooks.
        """
        if self.record["name"] != name:
            raise UsageError(
                f"{self.path} is a measurement of another spec: found '{self.record['name']}', expected '{name}'",
                hint="measure this spec with noether bench SPEC --json > FILE, at the commit to compare with",
            )
        if (wanted := self.record.get("wanted")) != updates:
            raise UsageError(
                f"{self.path} is a measurement of other updates: found {_asked(wanted)}, here {_asked(updates)}",
                hint=f"{'leave out --updates' if wanted is None else f'add --updates {wanted}'}, or measure it anew",
            )

    def other_machine(self, machine: Mapping[str, Any]) -> str | None:
        """Return how the machine of the earlier measurement differs, as text; None if it does not."""
        parts = ("system", "cores", "threads", "device", "python", "torch")
        before = self.record["machine"]
        other = [
            f"{part} {before.get(part)}, here {machine[part]}" for part in parts if before.get(part) != machine[part]
        ]
        return "; ".join(other) or None

    def limit(self, noise: float | None) -> float:
        """Return the largest ratio that is not growth for a measurement with this noise; infinite if it is unknown."""
        before = self.record["noise"]
        if noise is None or before is None:
            return inf
        return float(self.record["ratio"]) * (1 + max(_ALLOWED, noise, float(before)))

    def allows(self, timing: Timing) -> bool:
        """Return True if a ratio has not grown."""
        return timing.ratio <= self.limit(timing.noise)

    def growth(self, record: Mapping[str, Any]) -> list[str]:
        """Return what has grown in a later measurement, as sentences; nothing if it is as quick as this one."""
        found = []
        limit = self.limit(record["noise"])
        if record["ratio"] > limit:
            text = f"the ratio grew from {self.record['ratio']:.2f} to {record['ratio']:.2f}, allowed up to {limit:.2f}"
            found.append(f"{text}{self._dearer(record)}")
        return [*found, *self._more_calls(record), *self._more_waits(record)]

    def _dearer(self, record: Mapping[str, Any]) -> str:
        """Name the hooks of every slice that explain a tenth of the growth, those that grew most first."""
        before = {_key(one): one["us"] for one in self.record["callbacks"]}
        hooks = [one for one in record["callbacks"] if one["calls"] * record["slice_updates"] >= 1]
        growth = {_key(one): one["us"] - before.get(_key(one), 0.0) for one in hooks}
        most = sorted(growth, key=lambda key: -growth[key])[:_NAMED]
        least = _CAUSE * (record["ratio"] - self.record["ratio"]) * record["bare_us"]
        named = [f"{' '.join(key)} +{growth[key]:,.1f} µs" for key in most if growth[key] >= least]
        elsewhere = "not in a hook: look at the model, the loss and the data, or for other work on the machine"
        return f"; most of all {', '.join(named)}" if named else f"; {elsewhere}"

    def _more_calls(self, record: Mapping[str, Any]) -> list[str]:
        """Return the growth of Python calls above the bare loop, where the same versions are compared."""
        if any(record["machine"][part] != self.record["machine"].get(part) for part in ("python", "torch")):
            return []
        before, after = (one["python_calls"]["update"] - one["python_calls"]["bare"] for one in (self.record, record))
        if after <= before + _CALLS:
            return []
        text = f"Python calls of an update, less those of the bare loop, grew from {before:.1f} to {after:.1f}"
        return [f"{text}{self._called_more(record)}"]

    def _called_more(self, record: Mapping[str, Any]) -> str:
        """Name the hooks that are called more often than before, or were not called at all."""
        before = {_key(one): one["calls"] for one in self.record["callbacks"]}
        more = {_key(one): one["calls"] - before.get(_key(one), 0.0) for one in record["callbacks"]}
        named = [" ".join(key) for key in sorted(more, key=lambda key: -more[key])[:_NAMED] if more[key] > _WAITS]
        return f"; new or called more often: {', '.join(named)}" if named else ""

    def _more_waits(self, record: Mapping[str, Any]) -> list[str]:
        before = {_key(one): one["waits"] for one in self.record["callbacks"]}
        return [
            f"{one['name']} reads values in {one['hook']}: {one['waits']:.2g} an update, {was or 0:.2g} before"
            for one in record["callbacks"]
            if one["waits"] is not None and one["waits"] > (was := before.get(_key(one)) or 0.0) + _WAITS
        ]


def _asked(updates: object) -> str:
    return "no --updates" if updates is None else f"--updates {updates}"


def _key(cost: Mapping[str, Any]) -> tuple[str, str]:
    return str(cost["name"]), str(cost["hook"])
