"""`noether eval`: what a checkpoint of a run is worth, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from noether.cli.options import AsJson, Output, Project, RunArgument, Trusted
from noether.cli.table import print_table
from noether.core.utils.shown_path import shown_path

EXAMPLE = "Example: noether eval runs/airfoil-20260102-030405-ab12 --checkpoint best_model.loss/test/total"


def evaluate(
    run: RunArgument,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Which one: latest, last, best_model.<metric>, E…_U…_S…, or the name of its folder."
        ),
    ] = "latest",
    output: Output = Path("runs"),
    trusted: Trusted = [],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Call every callback of RUN that evaluates once, on the weights of a checkpoint, and on the averages it holds.

    The metrics are kept beside the run's, in `evaluations/` of its folder. Exit codes: 0 done, 1 failed, 2 wrong usage,
    3 no such checkpoint, or a damaged one.
    """
    from noether.runs.evaluate import evaluate as evaluate_run

    found = evaluate_run(run, checkpoint=checkpoint, output=output, trusted=trusted, project=project)
    if as_json:
        print(json.dumps({"checkpoint": found.checkpoint, "file": str(found.file), "metrics": dict(found.metrics)}))
        return
    print(f"{found.checkpoint} of {shown_path(found.run_dir)}")
    print_table([{"metric": key, "value": f"{value:.6g}"} for key, value in found.metrics.items()])
    print(f"kept in {found.file}")
