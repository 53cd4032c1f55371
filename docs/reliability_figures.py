"""Run the tests and benchmarks of reliability, and write their figures into docs/explanation/reliability.md.

python docs/reliability_figures.py            the tier of every change: minutes
python docs/reliability_figures.py --long     the long tier as well: hundreds of kills, every update: an hour
python docs/reliability_figures.py --from F   write the table of a folder F with reports of an earlier call
python docs/reliability_figures.py --ranks    the tests of several ranks alone, long ones too, and their table in
                                              docs/how-to/train-on-several-ranks.md: five minutes

The table is written only where every test has passed; where one fails, a line says so and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from reliability_report import NotMeasuredError, Report
from written_block import write_block

REPOSITORY = Path(__file__).parents[1]
PAGE = Path(__file__).parent / "explanation" / "reliability.md"
BEGIN, END = "<!-- figures: written by docs/reliability_figures.py -->", "<!-- end of figures -->"
TESTS = ("tests/behaviour/faults", "tests/behaviour/resume", "tests/behaviour/tracking")
RANKS_PAGE = Path(__file__).parent / "how-to" / "train-on-several-ranks.md"
RANKS_BEGIN = "<!-- ranks: written by docs/reliability_figures.py --ranks -->"
RANKS_END = "<!-- end of ranks -->"
RANKS_TESTS = "tests/behaviour/ranks"
BENCHMARKS = ("benchmarks/checkpoints", "benchmarks/logging")


def kills(report: Report) -> str:
    """Runs that were killed and went on, with the bound of the rule of three."""
    survived, attempted = report.total("kills", "survived"), report.total("kills", "attempted")
    inside = report.total("kills", "inside_a_save")
    bound = f"at 95 % confidence, less than {300 / attempted:.1f} % fail"
    return f"{survived} of {attempted}, {inside} of them inside of a save; {bound}"


def computed_again(report: Report) -> str:
    """Updates that a kill costs."""
    lost = report.joined("kills", "lost_updates")
    return f"at most {lost[-1]:.0f}, saving every 3"


def resume_points(report: Report) -> str:
    """Updates, and points inside of updates."""
    return f"{report.total('resume points', 'equal')} of {report.total('resume points', 'all')}"


def sigterm(report: Report) -> str:
    """Outcome and duration of stops."""
    seconds = report.joined("sigterm", "seconds")
    p50, p95 = (seconds[int(share * (len(seconds) - 1))] for share in (0.5, 0.95))
    equal, attempted = report.total("sigterm", "equal"), report.total("sigterm", "attempted")
    return f"{equal} of {attempted}; half within {p50:.2f} s, 95 % within {p95:.2f} s"


def fault_points(report: Report) -> str:
    """Kills and refusals at each operation."""
    return f"{report.total('file-system faults', 'points')}, none unrecoverable"


def crash_states(report: Report) -> str:
    """States of the power-loss model, and its control."""
    states, mutants = report.total("power failures", "states"), report.total("power failure mutants", "tried")
    return f"{states}, none unrecoverable; {mutants} of {mutants} protocols with a sync left out are found out"


def damages(report: Report) -> str:
    """Truncated, flipped, removed, exchanged."""
    detected = report.total("damages", "detected")  # each of them, or the test would have failed
    return f"{detected} of {detected} found"


def damaged_files(report: Report) -> str:
    """Text files of a run folder."""
    resumed, tried = report.total("damaged text files", "resumed"), report.total("damaged text files", "tried")
    return f"{resumed} of {tried} resumed, ending with the same bytes"


def two_starts(report: Report) -> str:
    """Orders of the steps of two processes."""
    orders, writers = report.total("two starts", "orders"), report.total("two starts", "two_writers")
    return f"{writers} times two writers in {orders} orders of lock, copy, write and kill"


def false_alarms(report: Report) -> str:
    """Sound checkpoints that were called damaged."""
    return f"0 in {report.total('kills', 'sound_steps')} sound checkpoints read after kills"


def metrics(report: Report) -> str:
    """Metrics that reached the tracker."""
    name = "metrics after outages and kills"
    lost, doubled, produced = (report.total(name, key) for key in ("lost", "doubled", "produced"))
    return f"{lost} lost and {doubled} doubled of {produced}, {report.total(name, 'kills')} kills among the outages"


def tracker_faults(report: Report) -> str:
    """Faults of a tracker in the middle of which a process was killed."""
    name = "tracker faults"
    cases, kills, produced, lost, doubled = (
        report.total(name, key) for key in ("cases", "kills", "produced", "lost", "doubled")
    )
    return f"{lost} lost and {doubled} doubled of {produced} in {cases} cases, {kills} kills in the middle of them"


def slow_server(report: Report) -> str:
    """Cost of a slow tracker."""
    share, ratio = (report.benchmark("test_slow_server.py", key) for key in ("feeds_share", "of_quiet"))
    return f"the feed computes {share:.2%} of an update; updates take {ratio:.3f} of their time"


def hostile(report: Report) -> str:
    """Inputs of strangers."""
    return f"0 executed in {report.passed('test_hostile_')} tests"


def hostile_folders(report: Report) -> str:
    """Run folders of strangers, tried on the verbs."""
    tried, shown = report.total("hostile folders", "tried"), report.joined("hostile folders", "folders")
    every = (
        f" of {shown[-1]:.0f} folders and {report.joined('hostile folders', 'verbs')[-1]:.0f} verbs" if shown else ""
    )
    return f"0 effects in {tried} cases{every}"


def secrets(report: Report) -> str:
    """Planted secrets."""
    return f"0 found in {report.passed('test_secrets')} scans"


def overhead(report: Report) -> str:
    """A save beside its bare bytes."""
    name = "test_a_save_of_large_tensors_costs_little_more_than_its_bytes"
    return (
        f"{report.benchmark(name, 'of_raw'):.2f} of write + hash + fsync, {report.benchmark(name, 'megabytes'):.0f} MB"
    )


ROWS: dict[str, Callable[[Report], str]] = {
    "Kills survived, ending with the same bytes": kills,
    "Updates computed again after a kill": computed_again,
    "Resume points that end with the same bytes": resume_points,
    "SIGTERM: continued with the same bytes; until the exit": sigterm,
    "Faults at file-system operations of a save": fault_points,
    "States of the disk after a power failure": crash_states,
    "Damages of checkpoints": damages,
    "Damaged text files of a run with a sound checkpoint": damaged_files,
    "Two starts of one run": two_starts,
    "False alarms": false_alarms,
    "Metrics at the tracker after outages and resumes": metrics,
    "Tracker faults: killed in the middle, resumed, synced": tracker_faults,
    "An update beside a tracker that hangs": slow_server,
    "Hostile inputs": hostile,
    "Hostile folders": hostile_folders,
    "Secrets in what a run writes and sends": secrets,
    "Cost of a save": overhead,
}


def longest(name: str) -> Callable[[Report], str]:
    """Return the row for the longest time that tests have published."""

    def row(report: Report) -> str:
        seconds = sorted(float(found["seconds"]) for found in report.published.get(name, ()))
        if not seconds:
            raise NotMeasuredError(name)
        most = f"{seconds[-1]:.1f} s"
        return f"at most {most}, tried {len(seconds)} times" if seconds[1:] else f"{most}, once"

    return row


def curves(report: Report) -> str:
    """Distance of the loss curves of several ranks from that of one process."""
    found = {name: values for name, values in report.published.items() if name.startswith("loss curve of")}
    if not found:
        raise NotMeasuredError("loss curve")
    of = ", ".join(sorted(name.removeprefix("loss curve of ").removesuffix(" ranks") for name in found))
    worst = max(float(value["difference"]) for values in found.values() for value in values)
    return f"{of} ranks: at most {worst:.0e} of the loss at any of 200 updates"


RANKS: dict[str, Callable[[Report], str]] = {
    "Loss curve beside that of one process": curves,
    "SIGTERM to a rank, to all, or to the launcher: committed at the same update, until all have ended": longest(
        "SIGTERM of several ranks"
    ),
    "An error on one rank at update 5: from the start of both until all have ended": longest("an error on one rank"),
    "The launcher is killed: until its ranks have committed and ended": longest("orphans"),
    "A rank hangs, with a timeout of 3 s: from the start until all have ended": longest("a hang"),
}


def table(report: Report, rows: dict[str, Callable[[Report], str]] = ROWS) -> str:
    """Return the table, and the machine that it was measured on."""
    where = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    lines = [
        "| What | Found |",
        "| --- | --- |",
        *(f"| {what} | {cell(found, report)} |" for what, found in rows.items()),
    ]
    return "\n".join([*lines, "", f"Measured on {where}."])


def cell(row: Callable[[Report], str], report: Report) -> str:
    """Return the text of a row, or `not measured`."""
    try:
        return row(report)
    except NotMeasuredError as nothing:
        return f"not measured: {nothing}"


def measure(folder: Path, *, long: bool) -> None:
    """Run everything, and write the reports into a folder."""
    selection = ["-m", "not packages", "--timeout", "3600"] if long else []
    family = ("-o", "junit_family=xunit1")  # the one that holds what tests publish
    run(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *selection,
        *family,
        f"--junitxml={folder / 'tests.xml'}",
        *TESTS,
    )
    reports = (f"--benchmark-json={folder / 'benchmarks.json'}", f"--junitxml={folder / 'benchmarks.xml'}")
    run("benchmarks", *reports, *BENCHMARKS)


def measure_ranks() -> int:
    """Run the tests of ranks one after the other, and write their table; return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="ranks-"))
    options = ("-q", "-n0", "-m", "not packages", "-o", "junit_family=xunit1", f"--junitxml={folder / 'tests.xml'}")
    run("-m", "pytest", *options, RANKS_TESTS)
    report = Report(folder)
    if report.failed:
        print("\n".join(f"failed: {failed}" for failed in report.failed), file=sys.stderr)
        return 1
    write_block(RANKS_PAGE, RANKS_BEGIN, RANKS_END, table(report, RANKS))
    return 0


def run(*arguments: str) -> None:
    """Run Python on the repository; the reports hold the failures."""
    subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, check=False)


def main(arguments: Sequence[str]) -> int:
    """Measure and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the long tier as well")
    parser.add_argument("--from", dest="folder", type=Path, help="reports of an earlier call")
    parser.add_argument("--ranks", action="store_true", help="the tests of several ranks alone")
    options = parser.parse_args(arguments)
    if options.ranks:
        return measure_ranks()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="reliability-"))
    if options.folder is None:
        measure(folder, long=options.long)
        print(f"reports are in {folder}")
    report = Report(folder)
    for failed in report.failed:
        print(f"failed: {failed}", file=sys.stderr)
    if report.failed:
        return 1
    write_block(PAGE, BEGIN, END, table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
