"""`noether checkpoint`: list, verify, keep, remove and export the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import (
    CHECKPOINT_NAMES,
    RUNS,
    AsJson,
    Checkpoint,
    Output,
    Project,
    RunArgument,
    Trusted,
    argument,
    verb,
    verbs,
)
from noether.cli.output import print_facts, print_json, print_table, say, size_in_words

if TYPE_CHECKING:
    from noether.runs.results.checkpoints import Listed, Verdict

app = verbs("Look after the checkpoints of a run.")
NameArgument = Annotated[str, argument("NAME", CHECKPOINT_NAMES, "checkpoints")]

NoTransforms = Annotated[bool, typer.Option("--no-transforms", help="Leave the run's transforms out of a program.")]


@verb(app, "list", example="noether checkpoint list airfoil-20260102-030405-ab12")
def list_all(run: RunArgument, output: Output = RUNS, as_json: AsJson = False) -> None:
    """List the checkpoints of RUN.

    The oldest comes first, each with all of its names; only manifests are read. Exit codes: 0 done, 2 no such run.
    """
    checkpoints = _checkpoints(run, output)
    if as_json:
        print_json([_checkpoint_json(checkpoint) for checkpoint in checkpoints])
    else:
        print_table([_checkpoint_row(checkpoint) for checkpoint in checkpoints])


@verb(app, "verify", example="noether checkpoint verify airfoil-20260102-030405-ab12 --all --deep")
def verify(
    run: RunArgument,
    name: Annotated[
        str | None,
        argument("NAME", "The checkpoint; the newest if unset.", "checkpoints"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Verify all of them.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load the tensors: all finite, and the same bytes if written again.")
    ] = False,
    output: Output = RUNS,
    as_json: AsJson = False,
) -> None:
    """Compare a checkpoint of RUN with its hashes.

    Every file is read, and each damaged one is named with the reason. Exit codes: 0 valid, 2 no such run, 3 damaged, or
    there is none.
    """
    from noether.errors import CheckpointError, UsageError
    from noether.runs.results.checkpoints import find_checkpoint, verify_checkpoint

    if every and name is not None:
        raise UsageError("--all and a NAME were given", hint="leave one of them out")
    checkpoints = _checkpoints(run, output)
    if not checkpoints:
        raise CheckpointError(f"{run} has no checkpoints")
    chosen = checkpoints if every else [find_checkpoint(checkpoints, name) if name else checkpoints[-1]]
    verdicts = [verify_checkpoint(checkpoint, deep=deep) for checkpoint in chosen]
    if as_json:
        print_json([_verdict_json(verdict) for verdict in verdicts])
    else:
        _print_verdicts(verdicts)
    raise typer.Exit(0 if all(verdict.is_valid for verdict in verdicts) else CheckpointError.exit_code)


@verb(app, "show", example="noether checkpoint show airfoil-20260102-030405-ab12 latest")
def show(run: RunArgument, name: NameArgument = "latest", output: Output = RUNS, as_json: AsJson = False) -> None:
    """Show the content of a checkpoint of RUN.

    Counters, files, tensors with shapes, and the callbacks that have a state. Exit codes: 0 done, 2 no such run, 3 no
    such checkpoint, or a damaged one.
    """
    from noether.runs.results.checkpoints import contents_of, find_checkpoint

    contents = contents_of(find_checkpoint(_checkpoints(run, output), name))
    if as_json:
        print_json(contents)
    else:
        _print_contents(contents)


@verb(app, "pin", example="noether checkpoint pin airfoil-20260102-030405-ab12 E10_U500_S32000")
def pin(run: RunArgument, name: NameArgument, output: Output = RUNS) -> None:
    """Protect a checkpoint of RUN from retention.

    It stays until it is unpinned. Works while the run trains. Exit codes: 0 done, 2 no such run, 3 no such checkpoint.
    """
    from noether.checkpoint.retention import pin as pin_checkpoint

    checkpoint = _named(run, name, output)
    pin_checkpoint(checkpoint.folder.parent, checkpoint.update)
    say(f"{checkpoint.name} is pinned: no pruning removes {checkpoint.folder}")


@verb(app, "unpin", example="noether checkpoint unpin airfoil-20260102-030405-ab12 E10_U500_S32000")
def unpin(run: RunArgument, name: NameArgument, output: Output = RUNS) -> None:
    """Let retention remove a checkpoint of RUN again.

    Exit codes: 0 done, 2 no such run, 3 no such checkpoint.
    """
    from noether.checkpoint.retention import unpin as unpin_checkpoint

    checkpoint = _named(run, name, output)
    was_pinned = unpin_checkpoint(checkpoint.folder.parent, checkpoint.update)
    say(f"{checkpoint.name} is {'no longer pinned' if was_pinned else 'not pinned'}")


@verb(app, "prune", example="noether checkpoint prune airfoil-20260102-030405-ab12 --keep-last 1 --dry-run")
def prune(
    run: RunArgument,
    keep_last: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Keep the newest N.", show_default="checkpoints.keep_last of the run"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    output: Output = RUNS,
) -> None:
    """Remove old checkpoints of RUN.

    Named and pinned ones stay. Those in abandoned/, after which a resume went on from an older one, are removed.
    Exit codes: 0 done, 2 no such run, or it is still training.
    """
    from noether.checkpoint.paths import ABANDONED
    from noether.runs.folder.run_folder import find_run
    from noether.runs.results.checkpoints import prune_run

    removed = prune_run(find_run(run, output), keep_last=keep_last, dry_run=dry_run)
    for checkpoint in removed:
        name = f"abandoned/{checkpoint.folder.name}" if checkpoint.folder.parent.name == ABANDONED else checkpoint.name
        say(f"{'would remove' if dry_run else 'removed'} {name} ({size_in_words(checkpoint.size)})")
    if not removed:
        say("nothing to remove")


@verb(app, "export", example="noether checkpoint export airfoil-20260102-030405-ab12 --averages ema/0.999")
def export(
    run: RunArgument,
    checkpoint: Checkpoint = "latest",
    averages: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR",
            help="Averaged weights of the checkpoint: 0.999, or ema/0.999.",
            show_default="live weights",
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="safetensors; or a program: torch-export (.pt2), onnx.")
    ] = "safetensors",
    no_transforms: NoTransforms = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write.", show_default="<run>.<checkpoint>.<format>"),
    ] = None,
    output: Output = RUNS,
    trusted: Trusted = [],
    project: Project = None,
) -> None:
    """Write the weights to a file, or the model as a program.

    The file can be used without Noether. A program takes inputs in the units of the training data, in batches of any
    size, and returns the fields in these units: the transforms of the run are inside. With --no-transforms it takes
    the forward properties as they are after the transforms. It is compared with `noether predict` on samples of the
    data before it is written. ONNX needs the packages onnx and onnxscript.

    Exit codes: 0 done, 1 the model cannot be exported, 2 no such run or wrong usage, 3 no such checkpoint.
    """
    from noether.runs.folder.run_folder import find_run
    from noether.runs.predict.export import export as export_weights

    paths = find_run(run, output)
    chosen: dict[str, Any] = {"form": form, "out": out, "transforms": not no_transforms}
    chosen |= {"trusted": trusted, "project": project}
    file, found = export_weights(paths, checkpoint=checkpoint, averages=averages, **chosen)
    weights = f"{found.weights} of {found.saved.manifest.iteration}"
    written = weights if form == "safetensors" else f"the model of {found.position} as {form}"
    say(f"wrote {written} to {file} ({size_in_words(file.stat().st_size)})")


def _checkpoints(run: str, output: Path) -> list[Listed]:
    from noether.runs.folder.run_folder import find_run
    from noether.runs.results.checkpoints import list_checkpoints

    return list_checkpoints(find_run(run, output).checkpoint_path)


def _named(run: str, name: str, output: Path) -> Listed:
    from noether.runs.results.checkpoints import find_checkpoint

    return find_checkpoint(_checkpoints(run, output), name)


def _checkpoint_row(checkpoint: Listed) -> dict[str, str]:
    """Return the row of a checkpoint in the table."""
    found = checkpoint.manifest
    return {
        "name": checkpoint.name,
        "update": str(checkpoint.update),
        "epoch": str(found.epoch) if found else "-",
        "samples": str(found.sample) if found else "-",
        "size": size_in_words(checkpoint.size) if found else "-",
        "resumable": "yes" if checkpoint.resumable else "no",
        "pinned": "yes" if checkpoint.pinned else "no",
        "names": ", ".join(checkpoint.names) if found else f"damaged: {checkpoint.problem}",
    }


def _checkpoint_json(checkpoint: Listed) -> dict[str, Any]:
    found = checkpoint.manifest
    return {
        "name": checkpoint.name,
        "folder": str(checkpoint.folder),
        "update": checkpoint.update,
        "epoch": found.epoch if found else None,
        "samples": found.sample if found else None,
        "size": checkpoint.size if found else None,
        "resumable": checkpoint.resumable,
        "pinned": checkpoint.pinned,
        "names": list(checkpoint.names),
        "problem": checkpoint.problem,
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    damages = [{"file": damage.file, "reason": damage.reason} for damage in verdict.damages]
    checkpoint = verdict.checkpoint
    return {"name": checkpoint.name, "folder": str(checkpoint.folder), "valid": verdict.is_valid, "damages": damages}


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print the verdict on each checkpoint, with its damaged files below it."""
    for verdict in verdicts:
        found = verdict.checkpoint.manifest
        content = (
            f"{len(found.files)} files, {size_in_words(verdict.checkpoint.size)}"
            if found
            else verdict.checkpoint.folder.name
        )
        say(f"{verdict.checkpoint.name}: {'valid' if verdict.is_valid else 'damaged'} ({content})")
        for damage in verdict.damages:
            say(f"  {damage.file}: {damage.reason}")


def _print_contents(contents: Mapping[str, Any]) -> None:
    """Print the content of a checkpoint: facts, files, tensors."""
    facts = {
        "folder": contents["folder"],
        "names": ", ".join([contents["name"], *contents["names"]]),
        "counters": f"epoch {contents['epoch']}, update {contents['update']}, {contents['samples']} samples",
        "resumable": "yes" if contents["resumable"] else "no: it holds a part of the state",
        "pinned": "yes" if contents["pinned"] else "no",
        "parent": contents["parent"] or "none",
        "spec": f"sha256 {contents['spec_sha256'] or 'unknown'}",
        "ranks": contents["world_size"],
        "callbacks": ", ".join(contents["callbacks"]) or "none with a state",
    }
    print_facts(facts.items())
    say()
    print_table([{"file": file["file"], "size": size_in_words(file["size"])} for file in contents["files"]])
    rows = [
        {"file": file["file"], "tensor": name, "shape": _shape(tensor["shape"]), "dtype": tensor["dtype"]}
        for file in contents["files"]
        for name, tensor in file.get("tensors", {}).items()
    ]
    if rows:
        say()
        print_table(rows)


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
