"""`noether predict`: use the model of a run on new data, in physical units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli.options import RUNS, AsJson, Checkpoint, Like, Output, Project, RunArgument, Trusted, verb, verbs
from noether.cli.output import counted, picked, print_json, say

if TYPE_CHECKING:
    from noether.runs.predict.files import Predicted

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
app = verbs()


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
