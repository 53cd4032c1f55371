"""`noether run`: train the run that a spec describes."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from noether.cli.options import AllowSpecChange, Quiet, ShowTraceback, Spec, SpecOptions, StrictCode, verb, verbs
from noether.cli.output import print_error, print_problem, say
from noether.config.secrets import masked_traceback
from noether.errors import NoetherError, error_text, notes_of

if TYPE_CHECKING:
    from noether.runs.outcome import Outcome

app = verbs()


RunId = Annotated[str | None, typer.Option(help="Name of the run folder.", show_default="<name>-<date>-<time>-<4 hex>")]
IfExists = Annotated[
    str | None,
    typer.Option(
        metavar="auto|none|NAME",
        help="If the run of --run-id exists: auto continues it, none moves it aside and starts anew, and the name "
        "of a checkpoint continues from there.",
        show_default="an error",
    ),
]
TraceHooks = Annotated[
    bool, typer.Option("--trace-hooks", help="Print each call of a hook to stderr, with its callback and its time.")
]
WithProfile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Print the cost of an update and of each callback at the end, and write a trace to the run folder.",
    ),
]


@verb(app, "run", example="noether run specs/experiment.toml -s trainer.max_epochs=5 --run-id first-try")
def run(
    spec: Spec,
    options: SpecOptions,
    run_id: RunId = None,
    resume: IfExists = None,
    allow_spec_change: AllowSpecChange = False,
    strict_code: StrictCode = False,
    quiet: Quiet = False,
    show_traceback: ShowTraceback = False,
    trace_hooks: TraceHooks = False,
    profile: WithProfile = False,
) -> None:
    """Train the run that SPEC describes.

    Exit codes: 0 done, 1 failed, 2 wrong spec or usage, 3 no valid checkpoint to continue from, 4 not finite, 143
    or 130 stopped by a signal.
    """
    import noether

    try:
        outcome = noether.run(
            spec,
            overrides=options.overrides,
            run_id=run_id,
            resume=resume,
            allow_spec_change=allow_spec_change,
            strict_code=strict_code,
            plugins=options.plugins,
            trust=options.trusted,
            quiet=quiet,
            trace_hooks=trace_hooks,
            profile=profile,
        )
    except NoetherError as error:
        if show_traceback:
            say(masked_traceback(error), to_stderr=True)
        raise
    end(outcome, show_traceback=show_traceback)


def end(outcome: Outcome, *, show_traceback: bool) -> NoReturn:
    """End the command with the exit code of a run; print the error if the run failed."""
    error = outcome.error
    if error is not None and outcome.status == "FAILED":
        if show_traceback:
            say(masked_traceback(error), end="", to_stderr=True)
        elif isinstance(error, NoetherError):
            print_error(error)
        else:
            _print_defect(error, outcome)
    raise typer.Exit(outcome.exit_code)


def _print_defect(error: BaseException, outcome: Outcome) -> None:
    """Print an error of a callback, a model or Noether itself in a few lines; its traceback is in the log."""
    from noether.checkpoint.paths import shown_path

    frames = traceback.extract_tb(error.__traceback__)
    place = getattr(error, "raised_at", None) or (f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None)
    notes = [f"note: {note}" for note in notes_of(error)]
    log = shown_path(outcome.run_dir / "log.txt")
    print_problem(
        f"{error_text(error)}{f' ({place})' if place else ''}",
        [*notes, f"help: the whole traceback is in {log}; --traceback prints it here"],
    )
