"""`noether eval`: evaluate a checkpoint of a run, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from noether.cli.options import RUNS, AsJson, Checkpoint, Like, Output, Project, RunArgument, Trusted, verb, verbs
from noether.cli.output import print_json, print_table, say

app = verbs()


@verb(app, "eval", example="noether eval runs/airfoil-20260102-030405-ab12 --checkpoint best_model.loss/test/total")
def evaluate(
    run: RunArgument,
    checkpoint: Checkpoint = "latest",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labelled samples instead of a data set of the run: .npz, .safetensors, .parquet or .csv.",
            show_default="the data of the run",
        ),
    ] = None,
    like: Like = None,
    output: Output = RUNS,
    trusted: Trusted = [],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a checkpoint of RUN.

    Every callback that evaluates is called once, on the weights and on the averages that the checkpoint holds. The
    metrics are kept in `evaluations/` of the run folder. With --data, the callbacks that evaluate the data set --like
    get the samples of the file in its place, and those of other data sets are left out.

    Exit codes: 0 done, 1 failed, 2 wrong usage or wrong data, 3 no such checkpoint, or a damaged one.
    """
    from noether.checkpoint.paths import shown_path
    from noether.runs.evaluate import evaluate as evaluate_run

    chosen: dict[str, Any] = {"output": output, "trusted": trusted, "project": project}
    found = evaluate_run(run, checkpoint=checkpoint, data=data, like=like, **chosen)
    if as_json:
        shape = {"checkpoint": found.checkpoint, "file": str(found.file), "metrics": dict(found.metrics)}
        print_json(shape, in_one_line=True)  # below the messages of the run
        return
    on_file = f" on {data} as the data set '{found.data_key}'" if data else ""
    say(f"{found.checkpoint} of {shown_path(found.run_dir)}{on_file}")
    print_table([{"metric": key, "value": f"{value:.6g}"} for key, value in found.metrics.items()])
    say(f"kept in {found.file}")
