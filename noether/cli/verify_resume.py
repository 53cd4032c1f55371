"""`noether verify-resume`: compare a run that is interrupted and resumed with one that is not, bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import counted, picked, print_json, print_table, say

if TYPE_CHECKING:
    from noether.runs.verify.verify_resume import Report

app = verbs()


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
    from noether.runs.verify.verify_resume import verify_resume as verify

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
