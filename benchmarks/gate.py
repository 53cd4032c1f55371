"""The gate: figures of benchmarks compared with `baselines.json`.

A benchmark publishes figures in `extra_info`: `counts`, numbers that are the same on every machine; `ratio`, or several
in `ratios`, its time above that of the way beside it; and `calls`, a table that says which function made the calls.
Any growth of a count fails. A ratio fails beyond its baseline by max(10 %, 4 median absolute deviations), and by 40 %
in any case, so that a function that takes half as long again is seen; on another processor than that of the baselines,
where ratios are others, by 50 %.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

BASELINES = Path(__file__).with_name("baselines.json")
TRIES = 3
AT_LEAST, AT_MOST, ELSEWHERE, DEVIATIONS = 0.10, 0.40, 0.50, 4.0
SHOWN = 8
"""Functions named in a failure."""

Figures = dict[str, Any]
"""Of one benchmark: `counts`, `ratios` and `calls`; in a baseline each ratio is its median and its deviation."""


def figures(extra_info: Mapping[str, Any]) -> Figures:
    """Return the figures that the gate compares, from what a benchmark has published."""
    ratios = dict(extra_info.get("ratios", {}))
    if "ratio" in extra_info:
        ratios["ratio"] = extra_info["ratio"]
    found = {"counts": dict(extra_info.get("counts", {})), "ratios": ratios, "calls": extra_info.get("calls", {})}
    return {name: value for name, value in found.items() if value}


def grown_counts(found: Figures, baseline: Figures) -> list[str]:
    """Return a line for each count that has grown or vanished, then lines with the functions that made more calls."""
    counts, before = found.get("counts", {}), baseline.get("counts", {})
    lines = [
        f"{name}: found {counts[name]:g}, expected at most {before[name]:g}"
        for name in before
        if name in counts and counts[name] > before[name]
    ]
    if lines:
        lines += grown_calls(found.get("calls", {}), baseline.get("calls", {}))
    return lines + _unequal_names(counts, before)


def grown_calls(found: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """Return a line for each function that makes more calls than before, the most first."""
    grown: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for edge, calls in found.items():
        more = round(calls - before.get(edge, 0.0), 2)
        if more > 0:
            caller, _, called = edge.partition(" > ")
            grown[caller].append((more, called))
    order = sorted(grown, key=lambda caller: -sum(more for more, _ in grown[caller]))
    return [
        f"  {caller} makes more calls: "
        + ", ".join(f"{more:+g} {called}" for more, called in sorted(grown[caller], reverse=True))
        for caller in order[:SHOWN]
    ]


def grown_ratios(found: Figures, baseline: Figures, at_least: float = AT_LEAST) -> list[str]:
    """Return a line for each ratio that lies beyond its limit or vanished; see `limit`."""
    ratios, before = found.get("ratios", {}), baseline.get("ratios", {})
    lines = []
    for name, (ratio, deviation) in before.items():
        largest = limit(ratio, deviation, at_least)
        if name in ratios and ratios[name] > largest:
            above = f"{ratio:.3f} + {largest / ratio - 1:.0%}"
            lines.append(f"{name}: found {ratios[name]:.3f}, expected at most {largest:.3f} ({above})")
    return lines + _unequal_names(ratios, before)


def limit(ratio: float, deviation: float, at_least: float = AT_LEAST) -> float:
    """Return the largest ratio that passes: a share of the baseline above it, or what it varies by if that is more."""
    return ratio + max(at_least * abs(ratio), min(AT_MOST * abs(ratio), DEVIATIONS * deviation))


def _unequal_names(found: Iterable[str], before: Iterable[str]) -> list[str]:
    found, before = set(found), set(before)
    gone = [f"{name}: no longer published" for name in sorted(before - found)]
    return gone + [f"{name}: has no baseline" for name in sorted(found - before)]


def baseline_of(tries: Sequence[Figures]) -> Figures:
    """Return the baseline of figures that were measured several times.

    Raises:
        ValueError: if a count differs, so that it is not exact.
    """
    if any(other.get("counts") != tries[0].get("counts") for other in tries):
        raise ValueError(f"counts differ between tries: found {[each.get('counts') for each in tries]}")
    made = {name: tries[0][name] for name in ("counts", "calls") if name in tries[0]}
    if "ratios" in tries[0]:
        made["ratios"] = {name: _spread([each["ratios"][name] for each in tries]) for name in tries[0]["ratios"]}
    return made


def _spread(values: Sequence[float]) -> list[float]:
    middle = statistics.median(values)
    return [round(middle, 4), round(statistics.median(abs(value - middle) for value in values), 4)]


def processor() -> str:
    """Return the name of this machine's processor, and how many cores there are."""
    names = (
        re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else []
    )
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def processor_of(file: Path = BASELINES) -> str:
    """Return the processor that baselines were measured on; without a file, the present one."""
    return json.loads(file.read_text("utf-8")).get("processor", "") if file.exists() else processor()


def versions() -> dict[str, str]:
    """Return the versions that counts depend on."""
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "torch": version("torch").split("+")[0]}


def versions_of(file: Path = BASELINES) -> dict[str, str]:
    """Return the versions that baselines were measured with; without a file, the present ones."""
    return json.loads(file.read_text("utf-8"))["versions"] if file.exists() else versions()


def load(file: Path = BASELINES) -> dict[str, Figures]:
    """Return the baselines by benchmark; none if there is no file."""
    return json.loads(file.read_text("utf-8"))["benchmarks"] if file.exists() else {}


def save(machine: str, benchmarks: Mapping[str, Figures], file: Path = BASELINES) -> None:
    """Write baselines, in order of names."""
    measured_by = {"machine": machine, "processor": processor(), "versions": versions()}
    text = json.dumps({**measured_by, "benchmarks": dict(sorted(benchmarks.items()))}, indent=1)
    file.write_text(text + "\n", "utf-8")


def comparison(before: Mapping[str, Figures], after: Mapping[str, Figures]) -> list[str]:
    """Return the rows of a table of two measurements: benchmark, figure, before, after, change."""
    rows = ["| benchmark | figure | before | after | change |", "| --- | --- | --- | --- | --- |"]
    for name in sorted(before.keys() | after.keys()):
        old, new = _flat(before.get(name, {})), _flat(after.get(name, {}))
        for figure in sorted(old.keys() | new.keys()):
            was, now = old.get(figure), new.get(figure)
            change = "" if not was or now is None else f"{now / was - 1:+.1%}"
            shown = ["" if value is None else f"{value:.4g}" for value in (was, now)]
            rows.append(f"| {name.removeprefix('benchmarks/')} | {figure} | {shown[0]} | {shown[1]} | {change} |")
    return rows


def _flat(found: Figures) -> dict[str, float]:
    return found.get("counts", {}) | {name: value[0] for name, value in found.get("ratios", {}).items()}
