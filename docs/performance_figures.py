"""Run the benchmarks, and write the goals of speed with their measured values into docs/explanation/performance.md.

python docs/performance_figures.py            measure and write: about seven minutes on a machine that is not busy
python docs/performance_figures.py --from F   write the table of the reports F of earlier calls
python docs/performance_figures.py --device F.json   with the figures of `benchmarks/device/run.py --out F.json`

A goal without a benchmark that publishes its figure is shown as not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from written_block import write_block

REPOSITORY = Path(__file__).parents[1]
PAGE = Path(__file__).parent / "explanation" / "performance.md"
BEGIN, END = "<!-- figures: written by docs/performance_figures.py -->", "<!-- end of figures -->"
DEVICE, DEVICE_PEERS = "benchmarks/device/run.py", "benchmarks/peers on a GPU"
"""In the place of benchmarks: they are no tests of pytest, and need a GPU."""


@dataclass(frozen=True)
class Goal:
    """A row of the table.

    Attributes:
        what: The cost.
        at_most: The goal, in words.
        benchmark: Part of the name of the benchmark that measures it.
        key: The figure in its `extra_info`, with dots between nested keys.
        limit: The largest value that meets the goal.
        show: Format of the value.
        factor: The published number times this is the value.
    """

    what: str
    at_most: str
    benchmark: str
    key: str = ""
    limit: float = 0.0
    show: str = "{:.2f}"
    factor: float = 1.0


NO_LIMIT = float("inf")
READY, IN_MEMORY = (
    f"test_update.py::test_an_update_takes_no_longer_than_in_a_bare_loop[{each}" for each in ("Ready", "InM")
)
CALLS, BOUNDARY = "test_update.py::test_python_calls_of_an_update[Ready", "test_update.py::test_a_boundary_that_logs"
COUNTS, OUR_CALLS = "test_counts.py::test_an_update", "counts.python calls above the bare loop"
TENSORS, QUIET, HOT = (
    "test_counts.py::test_tensors",
    "test_counts.py::test_callbacks",
    "test_dispatch.py::test_marginal",
)
BATCHES, SAVE, EMA = "test_batches.py::test_sample_by_sample_against", "test_a_save_of_large", "test_ema.py::test_"
WRITER, START = "test_log_writer.py::test_add_scalar", "test_start.py::test_"

GOALS: dict[str, tuple[Goal, ...]] = {
    "An update": (
        Goal(
            "Batches ready-made, above a loop that checks gradients too",
            "5 µs",
            READY,
            "above_checked",
            5,
            "{:+.1f} µs",
        ),
        Goal("… with the check of all gradients", "15 µs", READY, "above_bare", 15, "{:+.1f} µs"),
        Goal("… and with our own data path from memory", "35 µs", IN_MEMORY, "above_bare", 35, "{:+.1f} µs"),
        Goal("Python calls, batches ready-made", "12", CALLS, "calls_above_bare", 12, "{:+.0f}"),
        Goal("… above a loop that calls the kernels by hand", "12", CALLS, "calls_above_by_hand", 12, "{:+.0f}"),
        Goal("… with our own data path, between boundaries", "no goal", COUNTS, OUR_CALLS, NO_LIMIT, "{:+.0f}"),
        Goal("Beside the textbook loop, whose AdamW has torch's defaults", "0.7", IN_MEMORY, "ratio_textbook", 0.7),
        Goal("A data set by sample, for each sample", "5 µs", BATCHES, "microseconds_a_sample", 5, "{:.1f} µs"),
        Goal("Python calls that 5,000 tensors add to those of one", "0", TENSORS, "growth", 0, "{:+.0f}"),
        Goal("Python calls of 100 callbacks that override nothing hot", "0", QUIET, "idle_calls", 0, "{:+.0f}"),
        Goal("One more callback with an empty hook", "0.15 µs", HOT, "us_a_hook", 0.15, "{:.2f} µs"),
        Goal("A boundary that logs the default metrics", "60 µs", BOUNDARY, "us", 60, "{:.0f} µs"),
        Goal("The whole update compiled, beside the textbook loop", "0.4", "test_update_compiled.py", "ratio", 0.4),
    ),
    "Hooks, averages, logging": (
        Goal("20 implementations of a hook, beside a loop over bound methods", "1.3", "pluggy[20]", "ratio", 1.3),
        Goal(
            "An average of 25 M parameters in 60 tensors, beside a plain add",
            "1.1",
            f"{EMA}few",
            "ratios.ours / limit",
            1.1,
        ),
        Goal(
            "… of 1,200 small tensors, beside `_foreach_lerp_`", "1.1", f"{EMA}many", "ratios.ours / cached lists", 1.1
        ),
        Goal("… the same with flat parameters", "0.5", f"{EMA}many", "flat / cached lists", 0.5),
        Goal(
            "Exchange of weights and averages, for each tensor", "1 µs", f"{EMA}exchange", "us a tensor", 1, "{:.2f} µs"
        ),
        Goal("`add_scalar` with a float", "1 µs", f"{WRITER}[float]", "add_scalar_us", 1, "{:.2f} µs"),
        Goal("… with a tensor", "2 µs", f"{WRITER}[tensor]", "add_scalar_us", 2, "{:.2f} µs"),
        Goal(
            "A tracker that answers in 5 s: share of an update",
            "1 %",
            "test_slow_server.py",
            "feeds_share",
            0.01,
            "{:.2%}",
        ),
    ),
    "Checkpoints and data": (
        Goal("A save, beside write + hash + fsync of its bytes", "1.3", SAVE, "of_raw", 1.3),
        Goal(
            "A save in the background: stall, beside one copy of the state",
            "1.2",
            "test_asynchronous_save.py",
            "stall_ratio",
            1.2,
        ),
        Goal(
            "… of 12,000 small tensors, found and copied",
            "1.2",
            "test_asynchronous_save.py",
            "stall_ratio_of_small",
            1.2,
        ),
        Goal("… time that training takes longer, in copies", "2", "test_asynchronous_save.py", "extra_ratio", 2),
        Goal(
            "An epoch with evaluation, over the cost of its samples",
            "1.2",
            "test_evaluation_between_epochs",
            "ours",
            1.2,
        ),
        Goal("An index of the order of 10⁹ samples", "50 ns", "test_order.py", "nanoseconds", 50, "{:.0f} ns"),
    ),
    "Start, in processor time": (
        Goal("`noether --help`", "0.1 s", f"{START}command[help]", "seconds", 0.1, "{:.2f} s"),
        Goal("`noether plugins list`", "0.15 s", f"{START}command[plugins]", "seconds", 0.15, "{:.2f} s"),
        Goal(
            "`import noether`, above bare Python", "60 ms", f"{START}command[import]", "above", 0.06, "{:.0f} ms", 1e3
        ),
        Goal(
            "`noether check`, above importing what the spec names",
            "0.5 s",
            "test_check_time.py",
            "above_s",
            0.5,
            "{:.2f} s",
        ),
        Goal(
            "The first update, above importing torch and building",
            "0.5 s",
            f"{START}first_update",
            "above",
            0.5,
            "{:.2f} s",
        ),
    ),
    "On one H100": (
        Goal("The graph, fed by the loader, beside the graph captured by hand", "1.25", DEVICE, "ratios.graph", 1.25),
        Goal("… with the data set on the device", "1.15", DEVICE, "ratios.graph, data on the device", 1.15),
        Goal("Eager, beside the bare loop with pinned copies", "1.1", DEVICE, "ratios.eager", 1.1),
        Goal("Waits for the device, in an update and for metrics", "0", DEVICE, "waits", 0, "{:.0f} forms wait"),
        Goal("Weights of the graph and of eager updates", "equal bit for bit", DEVICE, "unequal", 0, "{:.0f} differ"),
        Goal("Lightning's `barebones=True`, beside ours: tiny, middle", "at least 15, 5", DEVICE_PEERS),
    ),
}


def found(goal: Goal, benchmarks: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Return the measured value of a goal as text, and if it is met."""
    for one in benchmarks:
        value: Any = one["extra_info"] if goal.benchmark in one["fullname"] else None
        for key in goal.key.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            met = "" if goal.limit == NO_LIMIT else "yes" if value <= goal.limit else "no"
            return goal.show.format(value * goal.factor), met
    return "not measured: no GPU" if goal.benchmark in (DEVICE, DEVICE_PEERS) else "not measured", ""


def of_device(report: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of `benchmarks/device/run.py` as those of one benchmark: the highest ratio of all rows.

    Raises:
        SystemExit: if they are not of a GPU.
    """
    if report["device"].startswith("a CPU"):
        raise SystemExit(f"the report was measured on {report['device']}; run {DEVICE} on a machine with a GPU")
    ratios: dict[str, float] = {}
    for row in report["rows"].values():
        for name, ratio in row.get("figures", {"ratios": {}})["ratios"].items():
            ratios[name] = max(ratio, ratios.get(name, 0.0))
    unequal = sum(any(row["equality"].values()) for row in report["rows"].values())
    waits = sum(wait is not None for wait in report["waits"].values())
    return {"fullname": DEVICE, "extra_info": {"ratios": ratios, "waits": waits, "unequal": unequal}}


def table(benchmarks: Sequence[dict[str, Any]], device: dict[str, Any] | None = None) -> str:
    """Return the table, and the machines that it was measured on.

    Args:
        benchmarks: Figures by benchmark, as pytest-benchmark reports them.
        device: Report of `benchmarks/device/run.py`.
    """
    gpu = ""
    if device is not None:
        benchmarks = [*benchmarks, of_device(device)]
        gpu = f"; the last rows on {device['device']}, torch {device['torch']}"
    lines = ["| Cost | At most | Measured | Met |", "| --- | --- | --- | --- |"]
    for part, goals in GOALS.items():
        lines.append(f"| **{part}** | | | |")
        lines += [f"| {goal.what} | {goal.at_most} | {' | '.join(found(goal, benchmarks))} |" for goal in goals]
    load, cores = os.getloadavg()[2], os.cpu_count() or 1
    busy = f", which others used too (load {load:.0f}): microseconds are too high there" if load > cores else ""
    where = f"{platform.machine()}, {cores} cores, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    return "\n".join([*lines, "", f"Measured on {where}{busy}{gpu}."])


def measure(report: Path) -> None:
    """Run the benchmarks; a benchmark that fails its own limit is shown with its value all the same."""
    command = [sys.executable, "benchmarks", "-m", "not long", f"--benchmark-json={report}"]
    subprocess.run(command, cwd=REPOSITORY, check=False)


def main(arguments: Sequence[str]) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="reports", type=Path, nargs="+", help="reports of earlier calls")
    parser.add_argument("--device", type=Path, help=f"report of {DEVICE}")
    options = parser.parse_args(arguments)
    device = options.device and json.loads(options.device.read_text("utf-8"))
    reports = options.reports or [Path(tempfile.mkdtemp(prefix="performance-")) / "benchmarks.json"]
    if options.reports is None:
        measure(reports[0])
        print(f"the report is {reports[0]}")
    benchmarks = [one for report in reports for one in json.loads(report.read_text("utf-8"))["benchmarks"]]
    write_block(PAGE, BEGIN, END, table(benchmarks, device))


if __name__ == "__main__":
    main(sys.argv[1:])
