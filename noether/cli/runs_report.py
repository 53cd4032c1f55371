"""`noether runs report`: write runs as one HTML file with interactive curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noether.cli.options import RUNS, Output, completed
from noether.cli.output import say, size_in_words

RunArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN",
        help="Run folders, or run ids below --output; several are drawn together.",
        show_default=False,
        autocompletion=completed("runs"),
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write.", show_default="<run>.report.html")]
OpenIt = Annotated[bool, typer.Option("--open", help="Open the file in the browser.")]
EXAMPLE = "noether runs report airfoil-20260102-030405-ab12 --open"


def report(runs: RunArguments, out: Out = None, open_it: OpenIt = False, output: Output = RUNS) -> None:
    """Write RUN as one HTML file.

    It has the results, interactive curves of training and evaluation, learning rate, gradient norms, speed, figures
    and tables of callbacks, spec and environment. Several runs share the charts, and the settings in which they differ
    come first. The file loads nothing from the network; a run that still trains is shown as it is now.

    Exit codes: 0 done, 2 no such run or wrong usage.
    """
    import webbrowser

    from noether.checkpoint.paths import shown_path
    from noether.errors import UsageError
    from noether.runs.folder.run_folder import find_run
    from noether.runs.results.report.page import write_report

    found = {paths.run_path: paths for paths in (find_run(run, output) for run in runs)}
    first, *others = found.values()
    named = out or Path(f"{first.run_id}{f'+{len(others)}' if others else ''}.report.html")
    if named.is_dir() or not named.absolute().parent.is_dir():
        raise UsageError(
            f"the report cannot be written: found {'a folder' if named.is_dir() else 'no folder'} at "
            f"{named if named.is_dir() else named.parent}, expected a file in a folder that exists",
            hint=f"name a file: --out {named / 'report.html' if named.is_dir() else named.name}",
        )
    size = write_report(list(found.values()), named)
    say(f"wrote {shown_path(named.absolute())} ({size_in_words(size)})")
    if open_it and not webbrowser.open(named.absolute().as_uri()):
        say("no browser was found: open the file yourself", to_stderr=True)
