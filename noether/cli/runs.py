"""`noether runs`: list, show, compare and delete runs, from their folders and without any server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli.options import RUNS, AsJson, Output, RunArgument, Trusted, argument, verb, verbs
from noether.cli.output import begins_with, print_csv, print_json, say, size_in_words
from noether.errors import UsageError
from noether.spec.errors.words import counted

if TYPE_CHECKING:
    from noether.runs.results.delete import Deletion

_ENDS = {True: "removed the run", False: "found no such run", None: "does not remove runs: it stays"}

app = verbs("Look at runs: list, show, compare, report, delete.")

AsCsv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values instead of text.")]
Metrics = Annotated[
    list[str],
    typer.Option("--metric", metavar="KEY", help="Show this metric; may be repeated.", show_default=False),
]


@verb(app, "list", example="noether runs list --where 'model.hidden=[64]' --sort rmse/test/elevation")
def list_runs(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The folder that holds the runs.")] = RUNS,
    where: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE",
            help="Only runs with this setting or metric: = != < <= > >=; may be repeated.",
            show_default=False,
        ),
    ] = [],
    sort: Annotated[
        str,
        typer.Option(metavar="NAME", help="Sort by a metric, a setting, or id, created, duration …; -NAME: falling."),
    ] = "created",
    metrics: Metrics = [],
    status: Annotated[
        list[str],
        typer.Option(
            metavar="STATUS", help="Only runs that are FINISHED, FAILED, KILLED …; may be repeated.", show_default=False
        ),
    ] = [],
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """List the runs in OUTPUT.

    Each with its status, start, duration and updates, the last and the best values of the main evaluation metrics, and
    the settings that are not the same in all listed runs. NAME is a path of the resolved spec (as for -s), a metric key
    for its last value, KEY/best for its best one, or one of id, status, created, duration, updates, epochs.

    Exit codes: 0 done, 2 wrong usage, or no such folder.
    """
    from noether.cli.runs_text import csv_of_runs, print_runs, run_json, settings_json
    from noether.runs.results.table import select, table_of

    _require_one_format(as_json, as_csv)
    table = table_of(select(output, where=where, sort=sort, status=status), metrics)
    if as_json:
        print_json([run_json(run) | {"settings": settings_json(table, row)} for row, run in enumerate(table.runs)])
    elif as_csv:
        print_csv(csv_of_runs(table))
    elif not table.runs:
        say(f"no run in {output}" + (" fulfils all conditions" if where or status else ""))
    else:
        print_runs(table)


def _require_one_format(as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise UsageError("found --json and --csv, expected one of them", hint="leave one of them out")


@verb(app, "show", example="noether runs show airfoil-20260102-030405-ab12")
def show(run: RunArgument, output: Output = RUNS, as_json: AsJson = False) -> None:
    """Show the results and checkpoints of RUN, and how to go on.

    Its end and its attempts are shown as well.

    Exit codes: 0 done, 2 no such run.
    """
    from noether.cli.runs_text import details_json, print_run, run_json
    from noether.runs.results.summary import summary_of_run

    found = summary_of_run(run, output)
    if as_json:
        print_json(run_json(found) | details_json(found))
    else:
        print_run(found)


@verb(app, "compare", example="noether runs compare wide-1 narrow-1    # or patterns: 'wide-*' 'narrow-*'")
def compare(
    runs: Annotated[list[str], argument("RUN", "Run folders, run ids, or patterns of ids in quotes.", "runs")],
    metrics: Metrics = [],
    best: Annotated[bool, typer.Option("--best", help="Compare the best values instead of the last ones.")] = False,
    output: Output = RUNS,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Compare the settings and the evaluation metrics of runs.

    Runs that differ in nothing but seed, name and output are one group, of which mean and standard deviation over the
    seeds are shown. A difference from the first group is beyond the spread if it is larger than two standard errors of
    the difference of the means; that needs two seeds in both groups.

    Exit codes: 0 done, 2 wrong usage, or no such run or metric.
    """
    from noether.cli.runs_text import comparison_json, csv_of_comparison, print_comparison
    from noether.runs.results.compare import compare_runs

    _require_one_format(as_json, as_csv)
    found = compare_runs(runs, output, metrics=metrics, best=best)
    if as_json:
        print_json(comparison_json(found))
    elif as_csv:
        print_csv(csv_of_comparison(found))
    else:
        print_comparison(found)


@verb(app, "report", example="noether runs report airfoil-20260102-030405-ab12 --open")
def report(
    runs: Annotated[
        list[str],
        argument(
            "RUN",
            "Run folders, run ids below --output, or patterns of ids in quotes; several are drawn together. "
            "Or the folder of one sweep.",
            "runs",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="<run>.report.html")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the file in the browser.")] = False,
    output: Output = RUNS,
) -> None:
    """Write RUN, or a sweep, as one HTML file.

    It has the results, interactive curves of training and evaluation, learning rate, gradient norms, speed, figures
    and tables of callbacks, spec and environment. Several runs share the charts, and the settings in which they differ
    come first. A sweep, `runs/<name>.sweep`, has the table of its trials, Optuna's plots, and the curves of its best
    trials. The file loads nothing from the network; a run that still trains is shown as it is now.

    Exit codes: 0 done, 2 no such run or wrong usage.
    """
    import webbrowser

    from noether.checkpoint.paths import shown_path
    from noether.errors import UsageError
    from noether.runs.folder.run_folder import find_run
    from noether.runs.results.compare import named_by
    from noether.runs.results.report.page import write_report
    from noether.runs.results.report.sweep import write_sweep_report
    from noether.runs.sweep.journal import Journal

    sweeps = {sweep.folder: sweep for sweep in (Journal.at(run, output) for run in runs) if sweep is not None}
    if len(sweeps) > 1 or (sweeps and len({*runs}) > 1):
        raise UsageError(
            f"wrong report: found {len({*runs})} names with a sweep among them, expected one sweep, or runs",
            hint=f"noether runs report {shown_path(next(iter(sweeps)))}",
        )
    named_runs = (run for given in ([] if sweeps else runs) for run in named_by(given, output))
    found = {paths.run_path: paths for paths in (find_run(run, output, of_any_version=True) for run in named_runs)}
    first, *others = [sweep.folder.name for sweep in sweeps.values()] or [paths.run_id for paths in found.values()]
    named = out or Path(f"{first}{f'+{len(others)}' if others else ''}.report.html")
    _require_place(named)
    size = write_report([*found.values()], named) if found else write_sweep_report(next(iter(sweeps.values())), named)
    say(f"wrote {shown_path(named.absolute())} ({size_in_words(size)})")
    if open_it and not webbrowser.open(named.absolute().as_uri()):
        say("no browser was found: open the file yourself", to_stderr=True)


def _require_place(named: Path) -> None:
    """Check that a report may be written to a file."""
    if named.is_dir() or not named.absolute().parent.is_dir():
        raise UsageError(
            f"the report cannot be written: found {'a folder' if named.is_dir() else 'no folder'} at "
            f"{named if named.is_dir() else named.parent}, expected a file in a folder that exists",
            hint=f"name a file: --out {named / 'report.html' if named.is_dir() else named.name}",
        )
    if named.exists() and not begins_with(named, b"<!doctype html>"):
        raise UsageError(
            f"the report cannot be written: found another file at {named}, expected none, or an older report",
            hint="name another file, or remove it first",
        )


@verb(app, "delete", example="noether runs delete airfoil-20260102-030405-ab12 --dry-run")
def delete(
    runs: Annotated[list[str], argument("RUN", "Run folders, or run ids below --output.", "runs")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    keep_tracker: Annotated[bool, typer.Option("--keep-tracker", help="Leave the runs at the trackers alone.")] = False,
    output: Output = RUNS,
    trusted: Trusted = [],
) -> None:
    """Delete runs: their folders, and their runs at your own trackers.

    Nothing outside of the folders is removed, and no link is followed. At a tracker only the run that was created for
    this one is removed, as its tags say; MLflow marks it as deleted, and can restore it. A run that goes on is refused.

    Exit codes: 0 done, 1 not everything was deleted, 2 wrong usage, or no such run.
    """
    from noether.runs.results.delete import deletion_of

    by_folder = {one.paths.run_path: one for one in (deletion_of(run, output) for run in runs)}
    found = list(by_folder.values())
    _print_deletions(found, keep_tracker)
    if dry_run:
        say("nothing was deleted: --dry-run")
        return
    if not yes and not sys.stdin.isatty():
        raise UsageError("nothing was deleted: there is no terminal to ask at", hint="add --yes")
    if not yes and not typer.confirm(f"delete {counted(len(found), 'run')}?"):
        say("nothing was deleted")
        raise typer.Exit(1)
    for one in found:
        _delete(one, keep_tracker, trusted, may_ask=not yes)


def _print_deletions(found: Sequence[Deletion], keep_tracker: bool) -> None:
    from noether.checkpoint.paths import shown_path

    for one in found:
        say(f"{shown_path(one.paths.run_path)}: {counted(one.files, 'file')}, {size_in_words(one.size)}")
        if one.others:
            say(f"  with files that Noether has not written: {', '.join(one.others)}")
        if one.trackers:
            say(f"  {'without' if keep_tracker else 'and'} its run in your own {', '.join(one.trackers)}")
        if one.mirror:
            say(f"  without its mirror, from which --resume could fetch it again: {one.mirror}")


def _delete(one: Deletion, keep_tracker: bool, trusted: Sequence[str], may_ask: bool) -> None:
    from noether.runs.results.delete import TrackerLeftError, delete_folder, forget

    try:
        for tracker in () if keep_tracker else forget(one.paths, trusted=trusted):
            place = f" at {tracker.where}" if tracker.where else ""
            say(f"{tracker.tracker}: {_ENDS[tracker.removed]}{place}")
    except TrackerLeftError as error:
        if not may_ask:
            raise
        say(f"{one.paths.run_id}: {error.message}", to_stderr=True)
        if not typer.confirm("delete its folder all the same?"):
            raise typer.Exit(1) from error
    delete_folder(one.paths)
    say(f"deleted {one.paths.run_id} ({size_in_words(one.size)})")
