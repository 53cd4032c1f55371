"""`noether checkpoint`: look at the checkpoints of a run, verify, keep, remove and export them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli.checkpoint_rows import described, print_verdicts, row, verdict_of
from noether.cli.options import AsJson, Output, RunArgument, Trusted
from noether.cli.quantities import size_in_words
from noether.cli.table import print_table

if TYPE_CHECKING:
    from noether.runs.checkpoints import Listed

app = typer.Typer(help="Look after the checkpoints of a run.", no_args_is_help=True, rich_markup_mode=None)
NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Which one: latest, last, best_model.<metric>, E…_U…_S…, or the name of its folder.",
        show_default=False,
    ),
]
_RUNS = Path("runs")


@app.command("list", epilog="Example: noether checkpoint list airfoil-20260102-030405-ab12")
def checkpoint_folders(run: RunArgument, output: Output = _RUNS, as_json: AsJson = False) -> None:
    """List the checkpoints of RUN, oldest first, with every name that they go by; only manifests are read.

    Exit codes: 0 done, 2 no such run.
    """
    steps = _steps(run, output)
    if as_json:
        print(json.dumps([described(step) for step in steps], indent=1))
    else:
        print_table([row(step) for step in steps])


@app.command("verify", epilog="Example: noether checkpoint verify airfoil-20260102-030405-ab12 --all --deep")
def verify(
    run: RunArgument,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Which one; unset, the newest.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Verify all of them.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load the tensors: finite, and the same bytes when written anew.")
    ] = False,
    output: Output = _RUNS,
    as_json: AsJson = False,
) -> None:
    """Hash every byte of a checkpoint of RUN and compare it with what was saved; name each damaged file and why.

    Exit codes: 0 valid, 2 no such run, 3 damaged, or there is none.
    """
    from noether.errors import CheckpointError, UsageError
    from noether.runs.checkpoints import find_checkpoint
    from noether.runs.verify_checkpoint import verify_checkpoint

    if every and name is not None:
        raise UsageError("--all and a NAME were given", hint="leave one of them out")
    steps = _steps(run, output)
    if not steps:
        raise CheckpointError(f"{run} has no checkpoints")
    chosen = steps if every else [find_checkpoint(steps, name) if name else steps[-1]]
    verdicts = [verify_checkpoint(step, deep=deep) for step in chosen]
    if as_json:
        print(json.dumps([verdict_of(verdict) for verdict in verdicts], indent=1))
    else:
        print_verdicts(verdicts)
    raise typer.Exit(0 if all(verdict.is_valid for verdict in verdicts) else CheckpointError.exit_code)


@app.command("show", epilog="Example: noether checkpoint show airfoil-20260102-030405-ab12 latest")
def show(run: RunArgument, name: NameArgument = "latest", output: Output = _RUNS, as_json: AsJson = False) -> None:
    """Show what a checkpoint of RUN holds: counters, files, tensors with shapes, and whose state.

    Exit codes: 0 done, 2 no such run, 3 no such checkpoint, or a damaged one.
    """
    from noether.cli.checkpoint_page import print_contents
    from noether.runs.checkpoint_contents import contents_of
    from noether.runs.checkpoints import find_checkpoint

    contents = contents_of(find_checkpoint(_steps(run, output), name))
    if as_json:
        print(json.dumps(contents, indent=1))
    else:
        print_contents(contents)


@app.command("pin", epilog="Example: noether checkpoint pin airfoil-20260102-030405-ab12 E10_U500_S32000")
def pin(run: RunArgument, name: NameArgument, output: Output = _RUNS) -> None:
    """Keep a checkpoint of RUN whatever retention says, until it is unpinned; also while the run trains.

    Exit codes: 0 done, 2 no such run, 3 no such checkpoint.
    """
    from noether.checkpoint import retention as pins

    step = _named(run, name, output)
    pins.pin(step.folder.parent, step.update)
    print(f"{step.name} is pinned: no pruning removes {step.folder}")


@app.command("unpin", epilog="Example: noether checkpoint unpin airfoil-20260102-030405-ab12 E10_U500_S32000")
def unpin(run: RunArgument, name: NameArgument, output: Output = _RUNS) -> None:
    """Leave a checkpoint of RUN to retention again.

    Exit codes: 0 done, 2 no such run, 3 no such checkpoint.
    """
    from noether.checkpoint import retention as pins

    step = _named(run, name, output)
    was_pinned = pins.unpin(step.folder.parent, step.update)
    print(f"{step.name} is {'no longer pinned' if was_pinned else 'not pinned'}")


@app.command("prune", epilog="Example: noether checkpoint prune airfoil-20260102-030405-ab12 --keep-last 1 --dry-run")
def prune(
    run: RunArgument,
    keep_last: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many of the newest stay.", show_default="checkpoints.keep_last of the run"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    output: Output = _RUNS,
) -> None:
    """Remove old checkpoints of RUN; those that a name stands for, and pinned ones, stay.

    Exit codes: 0 done, 2 no such run, or it is still training.
    """
    from noether.runs.find_run import find_run
    from noether.runs.prune import prune_run

    removed = prune_run(find_run(run, output), keep_last=keep_last, dry_run=dry_run)
    for step in removed:
        print(f"{'would remove' if dry_run else 'removed'} {step.name} ({size_in_words(step.size)})")
    if not removed:
        print("nothing to remove")


@app.command("export", epilog="Example: noether checkpoint export airfoil-20260102-030405-ab12 --averages ema/0.999")
def export(
    run: RunArgument,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Which one: latest, last, best_model.<metric>, E…_U…_S…, or the name of its folder."
        ),
    ] = "latest",
    averages: Annotated[
        str | None,
        typer.Option(
            metavar="ID/FACTOR", help="The averaged weights that it holds: ema/0.999.", show_default="the live ones"
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="safetensors, or torch-export for a .pt2 program.")
    ] = "safetensors",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write.", show_default="<run>.<checkpoint>.safetensors or .pt2"),
    ] = None,
    output: Output = _RUNS,
    trusted: Trusted = [],
) -> None:
    """Write the weights of a checkpoint of RUN to a file that needs no Noether to read.

    A torch.export program takes the forward properties in the order of the spec, transformed as in training; any batch
    size. It is compared with the model on a batch before it is written.

    Exit codes: 0 done, 1 the model cannot be exported, 2 no such run or wrong usage, 3 no such checkpoint.
    """
    from noether.runs.export_weights import export as export_weights
    from noether.runs.find_run import find_run

    paths = find_run(run, output)
    file, found = export_weights(paths, checkpoint=checkpoint, averages=averages, form=form, out=out, trusted=trusted)
    print(f"wrote {found.weights} of {found.saved.manifest.iteration} to {file} ({size_in_words(file.stat().st_size)})")


def _steps(run: str, output: Path) -> list[Listed]:
    from noether.runs.checkpoints import list_checkpoints
    from noether.runs.find_run import find_run

    return list_checkpoints(find_run(run, output).checkpoint_path)


def _named(run: str, name: str, output: Path) -> Listed:
    from noether.runs.checkpoints import find_checkpoint

    return find_checkpoint(_steps(run, output), name)
