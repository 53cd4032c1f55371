"""`noether sweep`: train a spec with many values, several at once, and compare the runs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli.options import AsJson, Quiet, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_json, print_table, say
from noether.spec.errors.words import counted, duration_in_words

if TYPE_CHECKING:
    from noether.runs.sweep.journal import Journal, Record, Trial
    from noether.runs.sweep.plan import SweepPlan

app = verbs()
_NEXT = 2  # commands: evaluate, predict
_STOPPED_BY = 128  # a shell reports an end by signal n as 128 + n

Status = Annotated[bool, typer.Option("--status", help="Print the table of the trials, and run nothing.")]
Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the sweep, with which the ids of its runs begin.",
        show_default="that of [sweep.settings], or of the spec",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a spec with the best values, which extends SPEC.", show_default=False),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Trials that run at once.", show_default="the number in [sweep.settings], or 1"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check all trials and print them, and run nothing.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run trials that failed again.")]


@verb(app, "sweep", example="noether sweep specs/experiment.toml --processes 4")
def sweep(
    spec: Spec,
    options: SpecOptions,
    status: Status = False,
    dry_run: DryRun = False,
    processes: Processes = None,
    name: Name = None,
    retry_failed: RetryFailed = False,
    out: Out = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train SPEC with many values, and print the best first.

    The [sweep] table of SPEC lists the values by path, or says how they are drawn. Every trial is a run below the
    output of SPEC. Started again after whatever ended it, the sweep goes on: trials that have ended are not run again.

    Exit codes: 0 all trials have ended, 1 a trial failed, 2 wrong spec or usage, 143 or 130 stopped by a signal.
    """
    if status:
        from noether.runs.sweep.journal import read_now
        from noether.runs.sweep.plan import find_sweep

        journal = find_sweep(spec, options.overrides, name)
        record = read_now(journal)
        _print_json(journal, record) if as_json else _print_status(journal, record, options.arguments())
        return
    from noether.runs.sweep.conduct import conduct
    from noether.runs.sweep.plan import SweepPlan

    plan = SweepPlan.of(spec, name, overrides=options.overrides, plugins=options.plugins, trust=options.trusted)
    if dry_run:
        _print_plan(plan, as_json=as_json)
        return
    record, stopped_by = conduct(
        plan,
        processes=processes,
        retry=retry_failed,
        say=lambda line: None if quiet else say(line, to_stderr=as_json, flush=True),
    )
    winner = record.winner()
    overlay = None if winner is None else plan.write_best(plan.journal.run_id(winner), winner.values, out)
    if as_json:
        _print_json(plan.journal, record)
    else:
        _print_status(plan.journal, record, options.arguments(), overlay)
    failed = [trial for trial in record.trials if trial.wanted and trial.state == "failed"]
    unfinished = [trial for trial in record.trials if trial.wanted and not trial.has_ended]
    for text, trials in (("failed", failed), ("not finished", unfinished)):
        if trials:
            ids = ", ".join(map(plan.journal.run_id, trials[:10]))
            say(f"{counted(len(trials), 'trial')} {text}: {ids}{', …' * (len(trials) > 10)}", to_stderr=True)
    if unfinished:
        say("  help: the same command goes on with them", to_stderr=True)
    raise typer.Exit(_STOPPED_BY + stopped_by if stopped_by else int(bool(failed or unfinished)))


def _print_plan(plan: SweepPlan, *, as_json: bool) -> None:
    """Print the trials of a sweep after checking them."""
    from noether.runs.sweep.journal import cells_of

    known = plan.known()
    plan.check(plan.extremes() if known is None else known)
    if as_json:
        print_json({"sweep": plan.journal.name, "method": plan.method, "trials": known})
        return
    number = f"at most {counted(plan.settings.trials or 0, 'trial')}" if known is None else counted(len(known), "trial")
    say(f"{plan.journal.name}: {number}, {plan.method}, compared by {plan.objective.words}")
    if known is not None:
        print_table([dict[str, object](cells_of(values)) for values in known])


def _print_status(journal: Journal, record: Record, given: list[str], overlay: Path | None = None) -> None:
    """Print the table of the trials, and the commands that train with the best values.

    Args:
        journal: The folder of the sweep.
        record: Its journal.
        given: Options of the command line that every trial has.
        overlay: A file with the best values.
    """
    from noether.runs.results.summary import summary_of
    from noether.runs.results.table import next_commands
    from noether.spec.sweep import options_of

    say(f"{record.name}: {_counts(record)}, compared by {record.objective.words}")
    print_table([_row(journal, record, trial) for trial in record.ranked() if trial.wanted])
    for trial in record.ranked():
        if trial.error and trial.wanted:
            say(f"{journal.run_id(trial)}: {trial.error}")
    if removed := [journal.run_id(trial) for trial in record.trials if not trial.wanted]:
        say(f"not in [sweep] any more: {', '.join(removed)}")
    if (winner := record.winner()) is None:
        return
    objective = record.objective
    say(f"\nbest: {journal.run_id(winner)}, {objective.value} {objective.metric} = {winner.value(objective):.6g}")
    for command in next_commands(summary_of(journal.paths(winner)))[:_NEXT]:
        say(f"  {command}")
    say("train with its values:")
    say(f"  {shlex.join(['noether', 'run', record.spec, *given, *options_of(winner.values)])}")
    if overlay is not None:
        say(f"  {shlex.join(['noether', 'run', str(overlay), *given])}")
    say(f"  {shlex.join(['noether', 'runs', 'report', str(journal.folder)])}")


def _counts(record: Record) -> str:
    states = [trial.state for trial in record.trials if trial.wanted]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))) or "no trials"


def _row(journal: Journal, record: Record, trial: Trial) -> dict[str, object]:
    from noether.runs.sweep.journal import cells_of

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.6g}"

    names = ("final", "best") if record.objective.value == "final" else ("best", "final")
    return {
        "trial": journal.run_id(trial),
        **cells_of(trial.values),
        **{name: number(getattr(trial, name)) for name in names},
        "status": trial.state,
        "duration": "-" if trial.seconds is None else duration_in_words(trial.seconds),
    }


def _print_json(journal: Journal, record: Record) -> None:
    from noether.spec.sweep import arguments_of

    objective = record.objective
    print_json(
        {
            "sweep": record.name,
            "folder": str(journal.folder),
            "method": record.method,
            "metric": objective.metric,
            "direction": objective.direction,
            "value": objective.value,
            "trials": [
                {
                    "run_id": journal.run_id(trial),
                    "number": trial.number,
                    "values": trial.values,
                    "overrides": arguments_of(trial.values),
                    "status": trial.state,
                    "in_table": trial.wanted,
                    "final": trial.final,
                    "best": trial.best,
                    "seconds": trial.seconds,
                    "error": trial.error,
                }
                for trial in record.ranked()
            ],
        }
    )
