"""`noether tracker`: deliver to trackers the metrics that they missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli.options import RUNS, AsJson, Output, RunArgument, Trusted, verb, verbs
from noether.cli.output import picked, print_json, say

if TYPE_CHECKING:
    from noether.runs.tracking.sync import Synced

app = verbs("Deliver metrics that trackers missed.")


@app.callback()
def _verbs() -> None:
    """Keep `sync` a verb of its own: typer would make a single command the whole group."""


@verb(app, "sync", example="noether tracker sync runs/airfoil-20260102-030405-ab12")
def sync(
    run: RunArgument,
    store: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Deliver to this server or database.", show_default="your own store"),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare every point and result with the tracker's, and send again what it lost."
        ),
    ] = False,
    output: Output = RUNS,
    trusted: Trusted = [],
    as_json: AsJson = False,
) -> None:
    """Deliver what the trackers of RUN missed.

    Metrics, results and the status of a run that finished, failed or was killed while a tracker was down. Nothing is
    sent twice. Your own store is that of a spec in the current project, else of the environment, else the default; if
    the run folder names another one, the command refuses until you name it with --store. Exit codes: 0 the trackers
    have everything, 1 a tracker still lacks something, 2 wrong usage, a foreign store, or the run has not ended.
    """
    from noether.runs.tracking.sync import sync_trackers

    results = []
    for synced in sync_trackers(run, output=output, trusted=trusted, store=store, verify=verify):
        results.append(picked(synced, "tracker lines results status where missing error points compared resent lost"))
        if not as_json:
            say(_line(synced), flush=True)
    if as_json:
        print_json(results, in_one_line=True)
    elif not results:
        say("the run has no tracker that keeps metrics")
    if any(row["error"] for row in results):
        raise typer.Exit(1)


def _things(synced: Synced) -> str:
    return "points and results" if synced.compared else "points"


def _line(synced: Synced) -> str:
    from noether.config.secrets import mask

    got = f"{synced.lines} metric lines and {synced.results} results"
    if synced.lost:
        got += f", had lost {', '.join(synced.lost)}: {synced.resent} {_things(synced)} were sent again"
    if synced.error:
        still = f"{synced.missing} {_things(synced) if synced.points else 'lines'} are still missing"
        return mask(f"{synced.tracker}: {synced.error}; delivered {got}, {still}")
    if synced.points:
        got += f", {synced.points} points{f' and {synced.compared} results' if synced.compared else ''} verified"
    if not synced.where:
        return f"{synced.tracker}: has everything, {synced.status}"
    return mask(f"{synced.tracker}: delivered {got}, {synced.status}  {synced.where}")
