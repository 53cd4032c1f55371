"""`noether run`, `resume` and `verify-resume`: train, continue, and check that both end with the same bytes."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from noether.cli.options import (
    RUNS,
    AllowSpecChange,
    AsJson,
    Output,
    Project,
    Quiet,
    RunArgument,
    ShowTraceback,
    Spec,
    SpecOptions,
    StrictCode,
    completed,
    verb,
    verbs,
)
from noether.cli.output import picked, print_error, print_json, print_problem, print_table, say
from noether.config.secrets import masked_traceback
from noether.errors import NoetherError, error_text, notes_of
from noether.spec.errors.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from noether.runs.outcome import Outcome
    from noether.runs.resume.verify_resume import Report

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

    whole = options._replace(overrides=[*changes, *options.overrides])
    return new_run_id(whole.load(spec, dict.fromkeys(removed)).spec.name)


def on_ranks(ranks: int, restarts: int, more: list[str]) -> NoReturn:
    """Run this command in several processes, one for each rank, and end with the exit code of the run."""
    from noether.runs.ranks import start_ranks

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
    from noether.runs.outcome import exit_code

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


At = Annotated[
    str | None,
    typer.Option(
        metavar="U1,U2,…",
        help="The updates after which to interrupt.",
        show_default="the first, the middle and end of an epoch, the last but one",
    ),
]
Updates = Annotated[
    int | None,
    typer.Option(metavar="N", min=2, help="Train this many updates.", show_default="two epochs, or one if it is long"),
]


@verb(app, "verify-resume", example="noether verify-resume specs/experiment.toml --at 3,40,217")
def verify_resume(
    spec: Spec,
    options: SpecOptions,
    at: At = None,
    updates: Updates = None,
    as_json: AsJson = False,
) -> None:
    """Check that an interrupted run ends with the same bytes.

    Runs SPEC twice, straight and interrupted by SIGTERM, both shortened, without trackers and in a temporary folder.
    At every interruption and at the end, weights, optimizer, averages, states of callbacks, random generators, counters
    and metrics are compared bit by bit; measured times are left out.

    Exit codes: 0 equal, 1 different, 2 wrong spec or usage.
    """
    from noether.runs.resume.verify_resume import verify_resume as verify

    report = verify(
        spec,
        overrides=options.overrides,
        at=None if at is None else _numbers(at),
        updates=updates,
        plugins=options.plugins,
        trusted=options.trusted,
    )
    if as_json:
        print_json(_report_json(report))
    else:
        _print_report(report)
    raise typer.Exit(0 if report.is_equal else 1)


def _numbers(text: str) -> list[int]:
    from noether.errors import UsageError

    try:
        return sorted({int(number) for number in text.split(",")})
    except ValueError as error:
        raise UsageError(f"--at {text}: expected numbers of updates", hint="for example --at 3,40,217") from error


def _report_json(report: Report) -> dict[str, Any]:
    points = [picked(point, "where what difference more before_any") for point in report.points]
    return {**picked(report, "name updates updates_per_epoch not_compared forgotten"), "points": points}


def _print_report(report: Report) -> None:
    say(f"{report.name}: {report.updates} updates straight and interrupted, {report.updates_per_epoch} an epoch")
    print_table(
        [
            {"point": point.where, "compared": point.what, "result": "differs" if point.difference else "equal"}
            for point in report.points
        ]
    )
    for place in report.not_compared:
        say(f"not compared, because it differs in every run: {place}")
    for point in report.points:
        if point.difference:
            more = f" (and {counted(point.more, 'more file')})" if point.more else ""
            say(f"\n{point.where}{more}\n  {point.difference}")
    if any(point.before_any and point.difference for point in report.points):
        say("\nthis differs before the first interruption: the run itself is not repeatable")
    if report.forgotten:
        say("\n" + "\n".join(report.forgotten))
        say("  help: return it from state_dict(), and restore it in load_state_dict()")
    say("\nthe interrupted run equals the straight one, bit by bit" if report.is_equal else "\nthe runs differ")
