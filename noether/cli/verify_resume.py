"""`noether verify-resume`: a run that is interrupted and continued ends with the same bytes as one that is not."""

from __future__ import annotations

from typing import Annotated

import typer

from noether.cli.options import AsJson, Overrides, Plugins, Spec, Trusted, Unset, in_order

EXAMPLE = "Example: noether verify-resume specs/experiment.toml --at 3,40,217"


def verify_resume(
    ctx: typer.Context,
    spec: Spec,
    overrides: Overrides = [],
    unset: Unset = [],
    at: Annotated[
        str | None,
        typer.Option(
            metavar="U1,U2,…",
            help="After which updates to interrupt.",
            show_default="the first, the middle and end of an epoch, the last but one",
        ),
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, help="Train this many updates.", show_default="two epochs, or one where it is long"
        ),
    ] = None,
    plugins: Plugins = [],
    trusted: Trusted = [],
    as_json: AsJson = False,
) -> None:
    """Run SPEC twice, straight and interrupted by SIGTERM and resumed, and compare everything bit by bit.

    Both runs are shortened, track nothing, and are made in a temporary folder that is removed. At every interruption
    and at the end, weights, optimizer, averages, states of callbacks, random generators and counters are compared, and
    the metrics but for what the clock decides.

    Exit codes: 0 equal, 1 not, 2 wrong spec or usage.
    """
    import dataclasses
    import json

    from noether.cli.verify_resume_page import print_report
    from noether.runs.verify.verify_resume import verify_resume as verify

    report = verify(
        spec,
        overrides=in_order(ctx, overrides, unset),
        at=None if at is None else _numbers(at),
        updates=updates,
        plugins=plugins,
        trusted=trusted,
    )
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        print_report(report)
    raise typer.Exit(0 if report.is_equal else 1)


def _numbers(text: str) -> list[int]:
    from noether.errors import UsageError

    try:
        return sorted({int(number) for number in text.split(",")})
    except ValueError as error:
        raise UsageError(f"--at {text}: expected numbers of updates", hint="for example --at 3,40,217") from error
