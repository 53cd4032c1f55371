"""`noether lr-find` and `batch-find`: measure which learning rate and which batch size a spec trains with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_json, print_table, say, size_in_words
from noether.errors import UsageError

if TYPE_CHECKING:
    from noether.runs.measure.batch_find import BatchTest
    from noether.runs.measure.curve import Curve
    from noether.runs.measure.lr_find import LrTest
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
        show_default="<SPEC>-lr-found.toml, or -batch-found.toml, beside SPEC",
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

    loaded = options.load(spec)
    overlay = _file_for(spec, "lr", out)
    short = options.load(spec, without_callbacks(loaded) | {"trainer.max_updates": updates})
    found = find_lr(loaded, short, options.plugins, lowest=lowest, highest=highest, updates=updates)
    curve = found.curve()
    _save(curve, overlay)
    reason = f"{found.reason} ({len(found.rates)} updates, seed {loaded.spec.seed})." if found.values else ""
    written = _write_found("lr-find", loaded, overlay, found.values, [reason], options)
    if as_json:
        losses = [repr(loss) if loss != loss or abs(loss) == float("inf") else loss for loss in found.losses]
        facts = {"steepest": found.steepest, "lowest_loss_at": found.lowest, "rates": list(found.rates)}
        _print_record(found, overlay, written, facts | {"losses": losses})
        raise typer.Exit(0 if found.values else 1)
    say(f"{found.name}: {len(found.rates)} updates from {lowest:g} on; {found.end}")
    _print_curve(curve)
    if not found.values:
        say(
            "error: no learning rate can be suggested: the loss does not fall by 5%, or by more than it varies from "
            "batch to batch\n"
            "  help: give more --updates, another range, or larger batches (-s trainer.effective_batch_size=N); check "
            "the model with noether check --deep",
            to_stderr=True,
        )
        raise typer.Exit(1)
    for path, rate in found.values.items():
        say(f"{path} = {rate:g}")
    say(f"  {found.reason}")
    _print_files(spec, overlay, written, found, options.arguments())


def _file_for(spec: Path, what: str, out: Path | None) -> Path:
    """Return the overlay to write, before anything is measured.

    Raises:
        UsageError: if another file has this name.
    """
    from noether.spec.overlay import require_own

    overlay = out or spec.with_name(f"{spec.stem}-{what}-found.toml")
    require_own(overlay)
    return overlay


def _save(curve: Curve, overlay: Path) -> None:
    """Write the picture of a curve beside its overlay, if it has more than one value."""
    if len(curve.x) > 1:
        curve.save(overlay.with_suffix(".png"))


def _write_found(
    by: str, loaded: LoadedSpec, path: Path, values: dict[str, Any], remarks: list[str], options: SpecOptions
) -> Path | None:
    """Write the overlay with the values that a measurement suggests; return None if there is none, and say why.

    Args:
        by: The verb that measured.
        loaded: The spec that it extends.
        path: The file.
        values: The values by path.
        remarks: The reason for them.
        options: Options of the command line.
    """
    from noether.spec.overlay import MARK, write_overlay

    if not values:
        return None
    remarks = [f"{MARK} {by}`: {remarks[0]}", *remarks[1:]]
    try:
        given = {"overrides": options.overrides, "plugins": options.plugins, "trust": options.trusted}
        return write_overlay(loaded, path, values, remarks, given)
    except UsageError as error:
        say(f"note: {error.message}", to_stderr=True)
        return None


def _print_record(found: LrTest | BatchTest, overlay: Path, written: Path | None, facts: dict[str, Any]) -> None:
    """Print a measurement as JSON, with facts that not all have; a file that was not written is null."""
    picture = overlay.with_suffix(".png") if len(found.curve().x) > 1 else None
    files = {name: path and str(path) for name, path in (("picture", picture), ("overlay", written))}
    print_json({"name": found.name, "suggestion": found.values, "end": found.end} | facts | files)


def _print_curve(curve: Curve) -> None:
    """Print the sketch of a curve, if it has more than one value."""
    if len(curve.x) > 1:
        encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
        say("\n".join(["", *curve.sketch(in_ascii="utf" not in encoding), ""]))


def _print_files(
    spec: Path, overlay: Path, written: Path | None, found: LrTest | BatchTest, arguments: list[str]
) -> None:
    """Print the picture of a measurement, and the command that uses its suggestion."""
    from noether.spec.sweep import options_of

    if len(found.curve().x) > 1:
        say(f"  picture: {overlay.with_suffix('.png')}")
    more = [] if written else options_of(found.values)
    say(f"  {shlex.join(['noether', 'run', str(written or spec), *arguments, *more])}")


Largest = Annotated[
    int | None,
    typer.Option(
        "--largest",
        metavar="N",
        min=1,
        help="Largest batch size to try.",
        show_default="on a CPU a sixteenth of the training samples, else all",
    ),
]
Seconds = Annotated[
    float, typer.Option("--seconds", metavar="S", min=0.01, help="Time for each size, after its first updates.")
]


@verb(app, "batch-find", example="noether batch-find specs/experiment.toml --largest 1024")
def batch_find(
    spec: Spec,
    options: SpecOptions,
    largest: Largest = None,
    seconds: Seconds = 1.0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Suggest a batch size for SPEC: the fastest, or the largest that fits into memory.

    It trains for a moment with each of several sizes.

    On a CPU it suggests the smallest size with nine tenths of the best throughput, and says nothing of memory. On an
    accelerator it suggests the largest size that fits into the memory during training. Both are measured with the
    loading of data, without callbacks. Evaluation passes are not measured.

    Exit codes: 0 done, 2 wrong spec or usage.
    """
    from noether.runs.measure.batch_find import find_batch
    from noether.runs.measure.lr_find import without_callbacks

    loaded = options.load(spec)
    overlay = _file_for(spec, "batch", out)
    plain = without_callbacks(loaded) | {"trainer.max_updates": 1}
    found = find_batch(lambda more: options.load(spec, plain | more), options.plugins, largest=largest, seconds=seconds)
    curve = found.curve()
    _save(curve, overlay)
    written = _write_found("batch-find", loaded, overlay, found.values, _remarks(found), options)
    if as_json:
        sizes = [{"size": one.size, "samples_per_s": one.rate, "memory": one.memory} for one in found.measured]
        _print_record(found, overlay, written, {"device": found.device, "reason": found.reason, "sizes": sizes})
        return
    say(f"{found.name} on {found.device}; {found.end}")
    print_table([_row(one.size, one.rate, one.memory) for one in found.measured])
    _print_curve(curve)
    for path, size in found.values.items():
        say(f"{path} = {size}")
    for line in _remarks(found):
        say(f"  {line}")
    _print_files(spec, overlay, written, found, options.arguments())


def _row(size: int, rate: float | None, memory: int | None) -> dict[str, object]:
    row: dict[str, object] = {
        "batch": size,
        "samples/s": "out of memory" if rate is None else f"{rate:,.0f}",
        "ms/update": "-" if rate is None else f"{1000 * size / rate:.3g}",
    }
    return row if memory is None else row | {"memory": size_in_words(memory)}


def _remarks(found: BatchTest) -> list[str]:
    """Return the reason for the suggestion, and what it changes."""
    size = found.values.get("trainer.effective_batch_size")
    if size is None or size == found.own:
        return [found.reason + "."]
    return [
        f"{found.reason}.",
        f"It changes training: the spec has {found.own}. Find the learning rate again: noether lr-find",
    ]
