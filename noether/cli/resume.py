"""`noether resume`: continue a run where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noether.cli.options import (
    AllowSpecChange,
    Output,
    Overrides,
    Plugins,
    Project,
    RunArgument,
    Trusted,
    Unset,
    in_order,
)
from noether.cli.run import end

EXAMPLE = "Example: noether resume runs/airfoil-20260102-030405-ab12 -s trainer.max_epochs=60"


def resume(
    ctx: typer.Context,
    run: RunArgument,
    overrides: Overrides = [],
    unset: Unset = [],
    checkpoint: Annotated[
        str, typer.Option(metavar="NAME", help="From which checkpoint: auto is the newest sound one.")
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    allow_spec_change: AllowSpecChange = False,
    output: Output = Path("runs"),
    plugins: Plugins = [],
    trusted: Trusted = [],
    project: Project = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the code an error of a callback or model arose.")
    ] = False,
) -> None:
    """Continue RUN with its own spec, so that it ends with the same bytes as if it had never stopped.

    Exit codes are those of `noether run`; a run that has finished already is exit code 0.
    """
    from noether.runs.resume.resume import preview
    from noether.runs.resume.resume import resume as resume_run

    changes = in_order(ctx, overrides, unset)
    if dry_run:
        lines = preview(
            run,
            checkpoint=checkpoint,
            output=output,
            overrides=changes,
            plugins=plugins,
            trusted=trusted,
            project=project,
        )
        print("\n".join(lines))
        return
    outcome = resume_run(
        run,
        checkpoint=checkpoint,
        output=output,
        overrides=changes,
        allow_spec_change=allow_spec_change,
        plugins=plugins,
        trusted=trusted,
        project=project,
        quiet=quiet,
    )
    end(outcome, show_traceback=show_traceback)
