"""`noether resume`: continue a run where it stopped."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from noether.cli.options import (
    RUNS,
    AllowSpecChange,
    Output,
    Project,
    Quiet,
    RunArgument,
    ShowTraceback,
    SpecOptions,
    StrictCode,
    completed,
    verb,
    verbs,
)
from noether.cli.output import say
from noether.cli.run import MaxRestarts, Nproc, end, on_ranks

app = verbs()


@verb(app, "resume", example="noether resume runs/airfoil-20260102-030405-ab12 -s trainer.max_epochs=60")
def resume(
    run: RunArgument,
    options: SpecOptions,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The checkpoint to continue from; auto is the newest valid one.",
            autocompletion=completed("checkpoints"),
        ),
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    nproc: Nproc = None,
    max_restarts: MaxRestarts = 0,
    allow_spec_change: AllowSpecChange = False,
    strict_code: StrictCode = False,
    output: Output = RUNS,
    project: Project = None,
    quiet: Quiet = False,
    show_traceback: ShowTraceback = False,
) -> None:
    """Continue a run that stopped.

    RUN may also be the address of a run in a mirror, s3://bucket/path/RUN_ID, which is fetched then.

    RUN ends with the same bytes as a run that never stopped. Exit codes are those of `noether run`; a run that has
    finished already is exit code 0.
    """
    if nproc is not None:
        on_ranks(nproc, max_restarts, [])
    from noether.runs.resume.resume import preview
    from noether.runs.resume.resume import resume as resume_run

    chosen: dict[str, Any] = {
        "checkpoint": checkpoint,
        "output": output,
        "overrides": options.overrides,
        "plugins": options.plugins,
        "trusted": options.trusted,
        "project": project,
    }
    if dry_run:
        say("\n".join(preview(run, **chosen)))
        return
    outcome = resume_run(run, **chosen, allow_spec_change=allow_spec_change, strict_code=strict_code, quiet=quiet)
    end(outcome, show_traceback=show_traceback, quiet=quiet)
