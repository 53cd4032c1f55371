"""Costs of training on 8 to 4,096 ranks: a model, and the tables of docs/explanation/scaling.md that show it.

python benchmarks/scaling/model.py            measure this machine, then write the page: two minutes
python benchmarks/scaling/model.py --again    write the page with the measurements in measured.json
python benchmarks/scaling/model.py --job large update_s=5 store=object     print the table of a job with other inputs

The formulas and their sources are in costs.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "docs")]

from costs import DAY_S, HOUR_S, JOBS, Job, Timings, Way, daly, estimate, links, ring, stores  # noqa: E402  # after the path
from drawing import Chart, drawing  # noqa: E402
from loopback import measured  # noqa: E402
from written_block import write_block  # noqa: E402

MEASURED = HERE / "measured.json"
PAGE = ROOT / "docs" / "explanation" / "scaling.md"
BEGIN, END = "<!-- {}: written by benchmarks/scaling/model.py -->", "<!-- end of {} -->"
RANKS = (8, 64, 512, 4096)


def seconds(value: float) -> str:
    """Return a duration with two digits or more and a unit."""
    for unit, size in (("d", DAY_S), ("h", HOUR_S), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.0f} {unit}" if value >= 10 * size else f"{value / size:.1f} {unit}"
    return f"{value * 1e6:.0f} µs"


def described(job: Job) -> str:
    """Return the inputs of a job in words."""
    size = f"{job.parameters / 1e9:g} G" if job.parameters >= 1e9 else f"{job.parameters / 1e6:g} M"
    node = f"{job.ranks_per_node} ranks a node on `{job.inside}`, with {job.links_per_node} of `{job.between}` each"
    work = f"{size} parameters, `{job.parallel}` with {job.library}, {seconds(job.update_s)} of computing an update"
    return f"{work}; {node}; checkpoints on `{job.store}`"


def table(jobs: Mapping[str, Job], timings: Timings) -> list[str]:
    """Return the lines of the table of costs."""
    cells = ("communication", "control", "checkpoint", "efficiency", "checkpoint every", "lost to failures")
    lines = [f"| Ranks | {' | '.join(cells)} |", "| ---: |" + " ---: |" * len(cells)]
    for name, job in jobs.items():
        lines.append(f"| **{name}** |" + " |" * len(cells))
        for ranks in RANKS:
            one = estimate(job, ranks, timings)
            times = (seconds(each) for each in (one.communication_s, one.control_s, one.checkpoint_s))
            every = f"{seconds(one.interval_s)}, {one.interval:,} updates"
            lines.append(f"| {ranks:,} | {' | '.join(times)} | {one.efficiency:.1%} | {every} | {one.loss:.2%} |")
    return [*lines, "", *(f"- **{name}**: {described(job)}" for name, job in jobs.items())]


def check(timings: Timings) -> list[str]:
    """Return the lines of the table that compares the model of the ring with gloo on this machine."""
    link = links(timings)["loopback"]
    lines = ["| Processes | Bytes | measured | median | model | measured / model |", "| ---: |" + " ---: |" * 5]
    for world, found in timings["ranks"].items():
        way = Way(int(world), 1, int(world), link, link, link.rate)
        for size in (each for each in found if each.isdecimal()):
            best, model = found[size]["best"], ring(int(size), way)
            times = " | ".join(seconds(each) for each in (best, found[size]["median"], model))
            lines.append(f"| {world} | {int(size):,} | {times} | {best / model:.1f} |")
    return lines


def presets(timings: Timings) -> list[str]:
    """Return the lines of the table of links and stores."""
    lines = ["| Name | Latency of a hop | Bytes a second | Source |", "| --- | ---: | ---: | --- |"]
    for name, link in links(timings).items():
        lines.append(f"| `{name}` | {link.latency_s * 1e6:.1f} µs | {link.rate / 1e9:.2f} G | {link.source} |")
    for name, store in stores(timings).items():
        limit = f", all nodes {store.rate / 1e9:,.0f} G" if store.rate < math.inf else ""
        lines.append(f"| `{name}` | | {store.node_rate / 1e9:.2f} G a node{limit} | {store.source} |")
    return lines


def here(timings: Timings) -> list[str]:
    """Return the lines about this machine."""
    operations, disk, ranks = ("vote", "barrier", "broadcast"), timings["disk"], timings["ranks"]
    lines = [f"Measured on {timings['machine']}, {timings['date']}, load {timings['load']}; the fastest turn:", ""]
    for world, found in ranks.items():
        times = ", ".join(f"a {name} {seconds(found[name]['best'])}" for name in operations)
        lines.append(f"- {world} processes: {times}")
    written = f"{disk['bytes'] / 2**20:.0f} MiB with fsync {seconds(disk['write']['best'])}"
    return [
        *lines,
        f"- a write of {written}, a small one with rename {seconds(disk['commit']['best'])}",
        "",
        *check(timings),
    ]


def blocks(timings: Timings) -> dict[str, str]:
    """Return the parts of the page that this command writes, by the name in their comments."""
    parts = {"costs": table(JOBS, timings), "measurements": here(timings), "links": presets(timings)}
    return {name: "\n".join(lines) for name, lines in parts.items()}


def picture(timings: Timings) -> str:
    """Return the drawing: costs of one job, efficiency and intervals of all, and intervals by time between failures."""
    ranks = [2**power for power in range(3, 13)]
    of = {name: [estimate(job, each, timings) for each in ranks] for name, job in JOBS.items()}
    parts = ("communication", "control", "checkpoint")
    costs = {name: [(one.ranks, getattr(one, f"{name}_s")) for one in of["middle"]] for name in parts}
    shares = {name: [(one.ranks, 100 * one.efficiency) for one in each] for name, each in of.items()}
    intervals = {name: [(one.ranks, one.interval_s / 60) for one in each] for name, each in of.items()}
    hours = [10 ** (power / 4) for power in range(13)]
    saves = {seconds(save): [(each, daly(save, each * HOUR_S) / 60) for each in hours] for save in (1, 10, 60, 300)}
    failures = "hours between failures of any node"
    return drawing(
        Chart("Costs of an update, job “middle”", "ranks", "seconds", RANKS, costs),
        Chart("Share of time that counts", "ranks", "%", RANKS, shares, is_linear=True),
        Chart("Checkpoint interval of the jobs", "ranks", "minutes", RANKS, intervals),
        Chart("Checkpoint interval, by duration of a save", failures, "minutes", (1, 10, 100, 1000), saves),
    )


def changed(job: Job, settings: Sequence[str], timings: Timings) -> Job:
    """Return a job with other inputs.

    Raises:
        ValueError: if a setting is not NAME=VALUE with a known name and value.
    """
    known = {one.name: getattr(job, one.name) for one in fields(job)}
    choices = {"inside": links(timings), "between": links(timings), "store": stores(timings)}
    allowed = {**choices, "parallel": ("exact", "ddp", "fsdp2"), "library": ("nccl", "gloo")}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known:
            raise ValueError(f"unknown input: found {setting!r}, expected NAME=VALUE with one of {', '.join(known)}")
        if value not in allowed.get(name, (value,)):
            raise ValueError(f"wrong {name}: found {value!r}, expected one of {', '.join(allowed[name])}")
        job = replace(job, **{name: value if name in allowed else number(name, value, type(known[name]))})
    return job


def number(name: str, value: str, kind: type[float]) -> float:
    """Return a value as a number.

    Raises:
        ValueError: if it is not one above 0.
    """
    with suppress(ValueError):
        if 0 < kind(value) < math.inf:
            return kind(value)
    raise ValueError(f"wrong {name}: found {value!r}, expected {'a whole' if kind is int else 'a'} number above 0")


def main(arguments: Sequence[str]) -> None:
    """Measure and write, or print the table of one job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help=f"take the measurements of {MEASURED.name}")
    parser.add_argument("--job", nargs="+", metavar="NAME", help=f"one of {', '.join(JOBS)}, then INPUT=VALUE …")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="folder on the disk to measure")
    options = parser.parse_args(arguments)
    if not options.again and not options.job:
        MEASURED.write_text(json.dumps(measured(options.folder), indent=1) + "\n", "utf-8")
    timings = json.loads(MEASURED.read_text("utf-8"))
    if options.job:
        name, *settings = options.job
        if name not in JOBS:
            parser.error(f"unknown job: found {name!r}, expected one of {', '.join(JOBS)}")
        try:
            print("\n".join(table({name: changed(JOBS[name], settings, timings)}, timings)))
        except ValueError as error:
            parser.error(str(error))
        return
    for name, text in blocks(timings).items():
        write_block(PAGE, BEGIN.format(name), END.format(name), text)
    PAGE.with_suffix(".svg").write_text(picture(timings), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
