"""`noether plan`: what a run would do, without training."""

from __future__ import annotations

from typing import Annotated

import typer

from noether.cli.options import AsJson, Overrides, Plugins, Spec, Trusted, Unset, in_order

EXAMPLE = "Example: noether plan specs/experiment.toml -s trainer.max_epochs=50 --step-time 0.02"


def plan(
    ctx: typer.Context,
    spec: Spec,
    overrides: Overrides = [],
    unset: Unset = [],
    step_time: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.0, help="Seconds that an update takes, to tell how long training is."),
    ] = None,
    plugins: Plugins = [],
    trusted: Trusted = [],
    as_json: AsJson = False,
) -> None:
    """Say what running SPEC would do: updates, batches, callbacks in their order, evaluation, checkpoints, sizes.

    Data and model are built for it; nothing is trained, tracked or left behind. Exit codes: 0 done, 2 wrong spec.
    """
    import dataclasses
    import json

    from noether.cli.plan_page import print_plan
    from noether.runs.plan.plan import make_plan
    from noether.spec.load import load_spec

    loaded = load_spec(spec, in_order(ctx, overrides, unset), trusted=trusted, plugins=plugins)
    made = make_plan(loaded, plugins, step_time=step_time)
    if as_json:
        print(json.dumps(dataclasses.asdict(made), indent=1))
    else:
        print_plan(made)
        for note in loaded.notes:
            print(f"\nnote: {note}")
