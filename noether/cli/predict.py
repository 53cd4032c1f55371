"""`noether eval` and `predict`: use a checkpoint of a run on its own data or on new data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import RUNS, AsJson, Checkpoint, Like, Output, Project, RunArgument, Trusted, verb, verbs
from noether.cli.output import picked, print_json, print_table, say
from noether.spec.errors.words import counted

if TYPE_CHECKING:
    from noether.runs.predict.files import Predicted

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
    from noether.config.metric_facts import is_evaluation
    from noether.runs.evaluate import evaluate as evaluate_run

    chosen: dict[str, Any] = {"output": output, "trusted": trusted, "project": project}
    found = evaluate_run(run, checkpoint=checkpoint, data=data, like=like, **chosen)
    if as_json:
        shape = {"checkpoint": found.checkpoint, "file": str(found.file), "metrics": dict(found.metrics)}
        print_json(shape, in_one_line=True)  # below the messages of the run
        return
    on_file = f" on {data} as the data set '{found.data_key}'" if data else ""
    say(f"{found.checkpoint} of {shown_path(found.run_dir)}{on_file}")
    shown = {key: value for key, value in found.metrics.items() if is_evaluation(key)}
    print_table([{"metric": key, "value": f"{value:.6g}"} for key, value in shown.items()])
    say(f"kept in {found.file}")


DataFile = Annotated[
    Path,
    typer.Option(
        metavar="PATH",
        help="Inputs without labels: .csv, .tsv, .parquet, .npz or .safetensors; a folder of images.",
        show_default=False,
    ),
]
OutFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="The file to write: .csv, .tsv, .parquet, .npz or .safetensors.", show_default=False
    ),
]
Ema = Annotated[
    str | None,
    typer.Option(metavar="FACTOR", help="Averaged weights of the checkpoint: 0.999.", show_default="live weights"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Samples in one forward pass.", show_default="that of training"),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")]


@verb(app, "predict", example="noether predict runs/airfoil-20260102-030405-ab12 --data new.csv --out predictions.csv")
def predict(
    run: RunArgument,
    data: DataFile,
    out: OutFile,
    checkpoint: Checkpoint = "latest",
    ema: Ema = None,
    like: Like = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    output: Output = RUNS,
    trusted: Trusted = [],
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Predict the fields for new samples with the model of RUN.

    Inputs are in the units of the training data, and so are predictions: the transforms of the run are applied, and
    inverted. The file has the columns of the training data; those that are not needed are ignored. Predictions are in
    the order of the samples, by field; in a table, by the column of the target.

    Exit codes: 0 done, 1 failed, 2 wrong usage or wrong data, 3 no such checkpoint, or a damaged one.
    """
    from noether.checkpoint.paths import shown_path
    from noether.runs.load import load_run
    from noether.runs.predict.files import predict_file

    loaded = load_run(run, output=output, device=device, trust=trusted, project=project)
    found = predict_file(loaded.predictor(checkpoint, ema, like), data, out, batch_size=batch_size)
    if as_json:
        print_json(picked(found, "checkpoint samples shapes columns inputs ignored not_finite") | {"file": str(out)})
    else:
        say(f"{found.checkpoint} of {shown_path(loaded.run_dir)}")
        _print(found, out)


def _print(found: Predicted, out: Path) -> None:
    fields = ", ".join((found.columns and [name for names in found.columns.values() for name in names]) or found.shapes)
    say(f"wrote {fields} for {counted(found.samples, 'sample')} to {out}")
    if found.ignored:
        say(f"ignored: {', '.join(found.ignored)}")
    for field, count in found.not_finite.items():
        say(f"note: not finite: {field} of {counted(count, 'sample')}", to_stderr=True)
