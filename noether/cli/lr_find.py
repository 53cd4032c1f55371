"""`noether lr-find`: measure which learning rate a spec trains with."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_json, say
from noether.errors import UsageError

if TYPE_CHECKING:
    from noether.runs.measure.curve import Curve
    from noether.spec.load import LoadedSpec

app = verbs()

Lowest = Annotated[float, typer.Option("--lowest", metavar="RATE", help="The first learning rate.")]
Highest = Annotated[float, typer.Option("--highest", metavar="RATE", help="The last learning rate.")]
Updates = Annotated[int, typer.Option("--updates", metavar="N", min=20, help="Most updates of the test.")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The spec to write, which extends SPEC; the picture is beside it.",
        show_default="<SPEC>-lr-found.toml beside SPEC",
    ),
]


@verb(app, "lr-find", example="noether lr-find specs/experiment.toml")
def lr_find(
    spec: Spec,
    options: SpecOptions,
    lowest: Lowest = 1e-7,
    highest: Highest = 10.0,
    updates: Updates = 200,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Suggest the learning rate at which SPEC learns fastest.

    It trains for some updates with a learning rate that grows at each.

    It trains in a temporary folder without callbacks, trackers and schedules, from the seed of SPEC. It writes a
    picture and a spec with the suggestion, which extends SPEC.

    Exit codes: 0 done, 1 no rate can be suggested, 2 wrong spec or usage.
    """
    if not 0 < lowest < highest < float("inf"):
        raise UsageError(f"wrong range: found --lowest {lowest:g} --highest {highest:g}, expected 0 < lowest < highest")
    from noether.runs.measure.lr_find import find_lr, without_callbacks
    from noether.spec.load import load_spec

    given: dict[str, Any] = {
        "overrides": options.overrides, "plugins": options.plugins, "trust": options.trusted,
    }  # fmt: skip
    loaded = load_spec(spec, **given)
    overlay = file_for(spec, "lr", out)
    short = load_spec(spec, **given, set={**without_callbacks(loaded), "trainer.max_updates": updates})
    found = find_lr(loaded, short, options.plugins, lowest=lowest, highest=highest, updates=updates)
    curve = found.curve()
    if len(found.rates) > 1:
        curve.save(overlay.with_suffix(".png"))
    reason = f"{found.reason} ({len(found.rates)} updates, seed {loaded.spec.seed})." if found.values else ""
    written = write_found("lr-find", loaded, overlay, found.values, [reason], given)
    record = {
        "name": found.name,
        "suggestion": found.values,
        "steepest": found.steepest,
        "lowest_loss_at": found.lowest,
        "end": found.end,
        "rates": list(found.rates),
        "losses": [repr(loss) if loss != loss or abs(loss) == float("inf") else loss for loss in found.losses],
        "picture": str(overlay.with_suffix(".png")),
        "overlay": None if written is None else str(written),
    }
    if as_json:
        print_json(record)
        raise typer.Exit(0 if found.values else 1)
    say(f"{found.name}: {len(found.rates)} updates from {lowest:g} on; {found.end}")
    print_curve(curve)
    if not found.values:
        say(
            "error: no learning rate can be suggested: the loss does not fall by 5%, or by more than it varies from "
            "batch to batch\n"
            "  help: give more --updates, another range, or larger batches (-s trainer.effective_batch_size=N); check "
            "the model with noether check --deep, and the data with noether data show",
            to_stderr=True,
        )
        raise typer.Exit(1)
    for path, rate in found.values.items():
        say(f"{path} = {rate:g}")
    say(f"  {found.reason}")
    print_files(spec, overlay, written, found.values, options.arguments())


def file_for(spec: Path, what: str, out: Path | None) -> Path:
    """Return the overlay to write, before anything is measured.

    Raises:
        UsageError: if another file or a folder has this name, or its folder cannot be written to.
    """
    from noether.spec.overlay import require_own

    overlay = out or spec.with_name(f"{spec.stem}-{what}-found.toml")
    try:
        overlay.parent.mkdir(parents=True, exist_ok=True)
        problem = "it is a folder" if overlay.is_dir() else None
        problem = problem if os.access(overlay.parent, os.W_OK) else "its folder is read-only"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise UsageError(f"cannot write {overlay}: {problem}", hint="give another file to --out, such as found.toml")
    require_own(overlay)
    return overlay


def write_found(
    by: str, loaded: LoadedSpec, path: Path, values: dict[str, Any], remarks: list[str], given: dict[str, Any]
) -> Path | None:
    """Write the overlay with the values that a measurement suggests; return None if there is none, and say why.

    Args:
        by: The verb that measured.
        loaded: The spec that it extends.
        path: The file.
        values: The values by path.
        remarks: The reason for them.
        given: Options of `load_spec`.
    """
    from noether.spec.load import load_spec
    from noether.spec.overlay import MARK, write_overlay

    if not values:
        return None
    remarks = [f"{MARK} {by}`: {remarks[0]}", *remarks[1:]]
    try:
        return write_overlay(loaded, path, values, remarks, load_spec(loaded.path or "", **given, set=values), given)
    except UsageError as error:
        say(f"note: {error.message}", to_stderr=True)
        return None


def print_curve(curve: Curve) -> None:
    """Print the sketch of a curve, if it has more than one value."""
    if len(curve.x) > 1:
        encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
        say("\n".join(["", *curve.sketch(in_ascii="utf" not in encoding), ""]))


def print_files(spec: Path, overlay: Path, written: Path | None, values: dict[str, Any], arguments: list[str]) -> None:
    """Print the picture of a measurement, and the command that uses its suggestion."""
    from noether.spec.sweep import arguments_of

    say(f"  picture: {overlay.with_suffix('.png')}")
    more = [] if written else [part for argument in arguments_of(values) for part in ("-s", argument)]
    say(f"  {shlex.join(['noether', 'run', str(written or spec), *arguments, *more])}")
