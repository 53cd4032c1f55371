"""`noether runs`: list, show, compare and delete runs, from their folders and without any server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli import runs_report
from noether.cli.options import RUNS, AsJson, Output, RunArgument, Trusted, completed, verb, verbs
from noether.cli.output import counted, print_csv, print_json, say, size_in_words

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

    table = table_of(select(output, where=where, sort=sort, status=status), metrics)
    if as_json:
        print_json([run_json(run) | {"settings": settings_json(table, row)} for row, run in enumerate(table.runs)])
    elif as_csv:
        print_csv(csv_of_runs(table))
    elif not table.runs:
        say(f"no run in {output}" + (" fulfils all conditions" if where or status else ""))
    else:
        print_runs(table)


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
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Run folders, run ids, or patterns of ids in quotes.",
            show_default=False,
            autocompletion=completed("runs"),
        ),
    ],
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
    from noether.cli.runs_comparison import comparison_json, csv_of_comparison, print_comparison
    from noether.runs.results.compare import compare_runs

    found = compare_runs(runs, output, metrics=metrics, best=best)
    if as_json:
        print_json(comparison_json(found))
    elif as_csv:
        print_csv(csv_of_comparison(found))
    else:
        print_comparison(found)


@verb(app, "delete", example="noether runs delete airfoil-20260102-030405-ab12 --dry-run")
def delete(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Run folders, or run ids below --output.",
            show_default=False,
            autocompletion=completed("runs"),
        ),
    ],
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
    from noether.errors import UsageError
    from noether.runs.results.delete import deletion_of

    found = [deletion_of(run, output) for run in dict.fromkeys(runs)]
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


verb(app, "report", example=runs_report.EXAMPLE)(runs_report.report)
