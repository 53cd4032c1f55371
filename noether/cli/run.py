"""`noether run`: train the run that a spec describes."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from noether.cli.options import AllowSpecChange, Quiet, ShowTraceback, Spec, SpecOptions, StrictCode, verb, verbs
from noether.cli.output import print_error, print_problem, say
from noether.config.secrets import masked_traceback
from noether.errors import NoetherError, error_text, notes_of

if TYPE_CHECKING:
    from pathlib import Path

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
Nproc = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        min=1,
        metavar="N",
        help="Train with N ranks on this machine, one process each; for several machines, use torchrun.",
        show_default="1",
    ),
]
MaxRestarts = Annotated[
    int,
    typer.Option("--max-restarts", min=0, metavar="N", help="Start the ranks again at most N times if one fails."),
]
WithProfile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Print the cost of an update and of each callback at the end, and write a trace to the run folder.",
    ),
]
LimitBatches = Annotated[
    int | None,
    typer.Option(
        "--limit-batches",
        min=1,
        metavar="N",
        help="Try the whole spec quickly: at most N updates an epoch and N batches an evaluation pass; sets "
        "loader.limit_batches.",
        show_default="all",
    ),
]
OverfitOneBatch = Annotated[
    bool,
    typer.Option(
        "--overfit-one-batch",
        help="Train on one batch again and again, 200 times unless -s sets a limit, and say whether the loss fell; "
        "without the callbacks and [expect] of the spec.",
    ),
]


@verb(app, "run", example="noether run specs/experiment.toml -s trainer.max_epochs=5 --run-id first-try")
def run(
    spec: Spec,
    options: SpecOptions,
    run_id: RunId = None,
    resume: IfExists = None,
    nproc: Nproc = None,
    max_restarts: MaxRestarts = 0,
    allow_spec_change: AllowSpecChange = False,
    strict_code: StrictCode = False,
    quiet: Quiet = False,
    show_traceback: ShowTraceback = False,
    trace_hooks: TraceHooks = False,
    profile: WithProfile = False,
    limit_batches: LimitBatches = None,
    overfit_one_batch: OverfitOneBatch = False,
) -> None:
    """Train the run that SPEC describes.

    Exit codes: 0 done, 1 failed, 2 wrong spec or usage, 3 no valid checkpoint to continue from, 4 not finite, 143
    or 130 stopped by a signal.
    """
    import noether

    changes, removed = _trial(options, limit_batches, overfit_one_batch=overfit_one_batch)
    if nproc is not None:
        on_ranks(nproc, max_restarts, [] if run_id else ["--run-id", _new_id(spec, options, changes, removed)])
    try:
        outcome = noether.run(
            spec,
            overrides=[*changes, *options.overrides],
            set=dict.fromkeys(removed),
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
    end(outcome, show_traceback=show_traceback, quiet=quiet)


_LIMITS = ("trainer.max_epochs", "trainer.max_updates", "trainer.max_samples")
_NOT_OVERFIT = ("expect", "trainer.track_every_n_epochs", "trainer.track_every_n_samples")
_OVERFIT_UPDATES = 200


def _trial(
    options: SpecOptions, limit_batches: int | None, *, overfit_one_batch: bool
) -> tuple[list[str], tuple[str, ...]]:
    """Return the overrides for a trial of a spec, which those of the user follow, and the paths to remove."""
    changes = [] if limit_batches is None else [f"loader.limit_batches={limit_batches}"]
    if not overfit_one_batch:
        return changes, ()
    changes += ["loader.overfit_one_batch=true", "trainer.callbacks=[]"]
    changes += ["trainer.add_default_callbacks=true", "trainer.track_every_n_updates=1"]  # the loss of every update
    given = [limit for limit in _LIMITS if any(str(one).lstrip().startswith(limit) for one in options.overrides)]
    if not given:
        given = ["trainer.max_updates"]
        changes.append(f"{given[0]}={_OVERFIT_UPDATES}")
    return changes, (*_NOT_OVERFIT, *(limit for limit in _LIMITS if limit not in given))


def _new_id(spec: Path, options: SpecOptions, changes: list[str], removed: tuple[str, ...]) -> str:
    """Return an id for a run of a spec, which is checked meanwhile: its errors shall be shown once."""
    from noether.runs.folder.run_folder import new_run_id
    from noether.spec.load import load_spec

    overrides = [*changes, *options.overrides]
    loaded = load_spec(spec, overrides, dict.fromkeys(removed), trust=options.trusted, plugins=options.plugins)
    return new_run_id(loaded.spec.name)


def on_ranks(ranks: int, restarts: int, more: list[str]) -> NoReturn:
    """Run this command in several processes, one for each rank, and end with the exit code of the run."""
    from noether.runs.processes import start_ranks

    words, arguments = iter(sys.argv[1:]), []
    for word in words:
        if word in _LAUNCH:
            next(words, None)
        elif not word.startswith(tuple(f"{name}=" for name in _LAUNCH)):
            arguments.append(word)
    code, killed = start_ranks([*arguments, *more], ranks=ranks, restarts=restarts)
    if killed is not None:
        print_problem(killed, [])
    raise typer.Exit(code)


_LAUNCH = ("--nproc", "--max-restarts")


def end(outcome: Outcome, *, show_traceback: bool, quiet: bool = False) -> NoReturn:
    """End the command with the exit code of a run; print the error if the run failed, and its last line if `quiet`."""
    if quiet and outcome.last_line:
        say(outcome.last_line)
    error = outcome.error
    if error is not None and outcome.status == "FAILED":
        if show_traceback:
            say(masked_traceback(error), end="", to_stderr=True)
        elif isinstance(error, NoetherError):
            print_error(error)
        else:
            _print_defect(error, outcome)
    from noether.runs.processes import exit_code

    raise typer.Exit(exit_code(outcome.exit_code))


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
