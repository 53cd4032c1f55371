"""`noether tracker`: deliver to trackers the metrics that they missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from noether.cli.options import RUNS, AsJson, Output, RunArgument, Trusted, verb
from noether.cli.output import picked, print_json, say

if TYPE_CHECKING:
    from noether.runs.tracking.sync import Synced

app = typer.Typer(help="Deliver metrics that trackers missed.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _verbs() -> None:
    """Keep `sync` a verb of its own: typer would make a single command the whole group."""


@verb(app, "sync", example="noether tracker sync runs/airfoil-20260102-030405-ab12")
def sync(
    run: RunArgument,
    output: Output = RUNS,
    trusted: Trusted = [],
    as_json: AsJson = False,
) -> None:
    """Deliver what the trackers of RUN missed.

    Metrics, files and the status of a run that finished, failed or was killed while a tracker was down. Everything is
    read from the run folder, and nothing is sent twice. Exit codes: 0 the trackers have everything, 1 a tracker still
    cannot be reached, 2 wrong usage, or the run has not ended.
    """
    from noether.runs.tracking.sync import sync_trackers

    results = []
    for synced in sync_trackers(run, output=output, trusted=trusted):
        results.append(picked(synced, "tracker lines files status where missing error"))
        if not as_json:
            say(_line(synced), flush=True)
    if as_json:
        print_json(results, in_one_line=True)
    elif not results:
        say("the run has no tracker that keeps metrics")
    if any(row["error"] for row in results):
        raise typer.Exit(1)


def _line(synced: Synced) -> str:
    from noether.config.secrets import mask

    got = f"{synced.lines} metric lines and {synced.files} files"
    if synced.error:
        still = f"{synced.missing} lines are still missing"
        return mask(f"{synced.tracker}: {synced.error}; delivered {got}, {still}")
    if not synced.where:
        return f"{synced.tracker}: has everything, {synced.status}"
    return mask(f"{synced.tracker}: delivered {got}, {synced.status}  {synced.where}")
