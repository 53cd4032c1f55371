"""`noether tracker`: what the trackers of a run have, and have not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from noether.cli.options import AsJson, Output, RunArgument, Trusted

if TYPE_CHECKING:
    from noether.runs.tracking.sync import Synced

app = typer.Typer(help="Bring trackers what they missed.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _verbs() -> None:
    """Keep `sync` a verb of its own: typer would make a single command the whole group."""


@app.command("sync", epilog="Example: noether tracker sync runs/airfoil-20260102-030405-ab12")
def sync(
    run: RunArgument,
    output: Output = Path("runs"),
    trusted: Trusted = [],
    as_json: AsJson = False,
) -> None:
    """Deliver what the trackers of RUN missed, and how it ended.

    For a run that finished, failed or was killed while a tracker was down, from the files in its folder. What a tracker
    has already is not sent again. Exit codes: 0 the trackers have everything, 1 one of them still cannot be reached,
    2 wrong usage, or the run has not ended.
    """
    from noether.runs.tracking.sync import sync_trackers

    results = []
    for synced in sync_trackers(run, output=output, trusted=trusted):
        results.append(synced)
        if not as_json:
            print(_told(synced), flush=True)
    if as_json:
        print(json.dumps([asdict(synced) for synced in results]))
    elif not results:
        print("the run has no tracker that keeps metrics")
    if any(synced.error for synced in results):
        raise typer.Exit(1)


def _told(synced: Synced) -> str:
    from noether.config.secrets import mask

    got = f"{synced.lines} metric lines and {synced.files} files"
    if synced.error:
        still = f"{synced.missing} lines are still missing"
        return mask(f"{synced.tracker}: {synced.error}; delivered {got}, {still}")
    if not synced.where:
        return f"{synced.tracker}: has everything, {synced.status}"
    return mask(f"{synced.tracker}: delivered {got}, {synced.status}  {synced.where}")
