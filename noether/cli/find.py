"""`noether lr-find` and `batch-find`: measure a learning rate and a batch size, and draw what was measured."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_json, print_table, say, size_in_words
from noether.errors import StorageError, UsageError

if TYPE_CHECKING:
    from noether.runs.measure.batch_find import BatchTest
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
    curve = lr_curve(found)
    picture = _saved(curve, overlay)
    reason = f"{found.reason} ({len(found.rates)} updates, seed {loaded.spec.seed})." if found.values else ""
    written = _write_found("lr-find", loaded, overlay, found.values, [reason], options)
    if as_json:
        losses = [repr(loss) if loss != loss or abs(loss) == float("inf") else loss for loss in found.losses]
        facts = {"steepest": found.steepest, "lowest_loss_at": found.lowest, "rates": list(found.rates)}
        _print_record(found, picture, written, facts | {"losses": losses})
        raise typer.Exit(0 if found.values else 1)
    say(f"{found.name}: {len(found.rates)} updates from {lowest:g} on; {found.end}")
    _print_curve(curve)
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
    _print_files(spec, picture, written, found.values, options.arguments())


def _file_for(spec: Path, what: str, out: Path | None) -> Path:
    """Return the overlay to write, before anything is measured.

    Raises:
        UsageError: if another file or a folder has this name, or its folder cannot be written to.
    """
    from noether.spec.overlay import require_own

    overlay = out or spec.with_name(f"{spec.stem}-{what}-found.toml")
    if overlay.is_dir():
        problem: str | None = "it is a folder"
    elif not overlay.parent.is_dir():
        problem = "its folder does not exist"
    else:
        problem = None if os.access(overlay.parent, os.W_OK) else "its folder is read-only"
    if problem:
        raise UsageError(f"cannot write {overlay}: {problem}", hint="give another file to --out, such as found.toml")
    require_own(overlay)
    return overlay


def _saved(curve: Curve, overlay: Path) -> Path | None:
    """Write the picture of a curve beside its overlay; return its file, None if it has less than two values."""
    if len(curve.x) < 2:
        return None
    curve.save(picture := overlay.with_suffix(".png"))
    return picture


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
        options: Options of both specs.
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


def _print_record(found: LrTest | BatchTest, picture: Path | None, written: Path | None, facts: dict[str, Any]) -> None:
    """Print a measurement as JSON, with facts that not all have; a file that was not written is null."""
    files = {name: path and str(path) for name, path in (("picture", picture), ("overlay", written))}
    print_json({"name": found.name, "suggestion": found.values, "end": found.end} | facts | files)


def _print_curve(curve: Curve) -> None:
    """Print the sketch of a curve, if it has more than one value."""
    if len(curve.x) > 1:
        encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
        say("\n".join(["", *curve.sketch(in_ascii="utf" not in encoding), ""]))


def _print_files(
    spec: Path, picture: Path | None, written: Path | None, values: dict[str, Any], arguments: list[str]
) -> None:
    """Print the picture of a measurement, and the command that uses its suggestion."""
    from noether.spec.sweep import options_of

    if picture is not None:
        say(f"  picture: {picture}")
    more = [] if written else options_of(values)
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
    """Suggest a batch size: fastest, or the largest that fits.

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
    curve = _batch_curve(found)
    picture = _saved(curve, overlay)
    written = _write_found("batch-find", loaded, overlay, found.values, _remarks(found), options)
    if as_json:
        sizes = [{"size": one.size, "samples_per_s": one.rate, "memory": one.memory} for one in found.measured]
        _print_record(found, picture, written, {"device": found.device, "reason": found.reason, "sizes": sizes})
        return
    say(f"{found.name} on {found.device}; {found.end}")
    print_table([_row(one.size, one.rate, one.memory) for one in found.measured])
    _print_curve(curve)
    for path, size in found.values.items():
        say(f"{path} = {size}")
    for line in _remarks(found):
        say(f"  {line}")
    _print_files(spec, picture, written, found.values, options.arguments())


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


_WIDTH, _HEIGHT = 64, 12  # characters
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column."""
_BRAILLE = 0x2800


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over a logarithmic axis.

    Attributes:
        x: Positions, all above 0, in order.
        y: Values; one that is not finite is left out.
        x_label: Name of the axis.
        y_label: Name of the values.
        title: Title of the picture.
        faint: Further values at the same positions, drawn faintly, such as those before smoothing.
        marks: Positions that are marked, by their label; the first one is the suggestion.
        ceiling: The highest value that is drawn; larger ones leave the picture. None to draw all.
    """

    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    y_label: str
    title: str
    faint: Sequence[float] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    ceiling: float | None = None

    def save(self, path: Path) -> None:
        """Write the curve as a picture.

        Raises:
            StorageError: if the disk refuses.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        if self.faint:
            axes.plot(self.x, self.faint, color="#9db8d2", linewidth=1, label="each update")
        axes.plot(self.x, self.y, color="#1f4e79", linewidth=2, marker="" if len(self.x) > 30 else "o", markersize=4)
        for number, (label, place) in enumerate(self.marks.items()):
            style = {"color": "#c0392b", "linewidth": 1.6} if number == 0 else {"color": "#7f8c8d", "linestyle": "--"}
            axes.axvline(place, label=label, **style)
        axes.set_xscale("log")
        if self.faint:
            low, high = self._limits()
            axes.set_ylim(low - 0.05 * (high - low or 1.0), high + 0.05 * (high - low or 1.0))
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.set_title(self.title, loc="left", fontsize=11)
        axes.grid(visible=True, which="major", color="#e5e8ea")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if self.marks or self.faint:
            axes.legend(frameon=False)
        try:
            figure.savefig(path, dpi=130)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error

    def sketch(self, *, in_ascii: bool = False) -> list[str]:
        """Return lines that draw the curve, with its extremes beside the axes and the suggestion below.

        Args:
            in_ascii: Draw with asterisks, for a terminal without Unicode.
        """
        low, high = self._limits()
        columns, rows = (_WIDTH, _HEIGHT) if in_ascii else (2 * _WIDTH, 4 * _HEIGHT)
        dots: set[tuple[int, int]] = set()
        before: int | None = None
        for column in range(columns):
            value = self._at(column / (columns - 1))
            row = None if value is None or value > high else round((high - value) / (high - low or 1.0) * (rows - 1))
            if row is not None:
                near = row if before is None else before + (row > before) - (row < before)
                dots.update((column, one) for one in range(min(near, row), max(near, row) + 1))
            before = row
        lines = []
        for row in range(_HEIGHT):
            if in_ascii:
                text = "".join("*" if (column, row) in dots else " " for column in range(_WIDTH))
            else:
                text = "".join(_braille(dots, column, row) for column in range(_WIDTH))
            label = _number(high) if row == 0 else _number(low) if row == _HEIGHT - 1 else ""
            lines.append(f"{label:>10} |{text}".rstrip())
        lines.append(f"{'':>10} +{'-' * _WIDTH}")
        first, last = _number(self.x[0]), _number(self.x[-1])
        lines.append(f"{'':>12}{first}{last:>{_WIDTH - len(first)}}")
        for label, place in list(self.marks.items())[:1]:
            column = round(self._share(place) * (_WIDTH - 1))
            text = f"{'':>12}{' ' * column}^ {label}"
            lines.append(text if column < _WIDTH // 2 else f"{'':>12}{label + ' ^':>{column + 1}}")
        return lines

    def _limits(self) -> tuple[float, float]:
        finite = [value for value in self.y if math.isfinite(value)] or [0.0]
        return min(finite), max(finite) if self.ceiling is None else max(min(finite), min(max(finite), self.ceiling))

    def _share(self, place: float) -> float:
        start, end = math.log(self.x[0]), math.log(self.x[-1])
        return (math.log(place) - start) / (end - start or 1.0)

    def _at(self, share: float) -> float | None:
        """Return the value at a share of the axis, on the line between its neighbours; None if one is not finite."""
        before = 0
        while before < len(self.x) - 2 and self._share(self.x[before + 1]) < share:
            before += 1
        after = min(before + 1, len(self.x) - 1)
        left, right = self._share(self.x[before]), self._share(self.x[after])
        weight = (share - left) / (right - left) if right > left else 0.0
        value = self.y[before] * (1 - weight) + self.y[after] * weight
        return value if math.isfinite(value) else None


def lr_curve(found: LrTest) -> Curve:
    """Return the losses over the learning rates."""
    marks = {f"suggested: {rate:.2g}": rate for rate in list(found.values.values())[:1]}
    if found.lowest is not None:
        marks[f"lowest loss: {found.lowest:.2g}"] = found.lowest
    start, least = (found.smoothed[0], min(found.smoothed)) if found.smoothed else (0.0, 0.0)
    ceiling = start + max(start - least, abs(start) / 2)  # divergence would flatten all before it
    return Curve(
        found.rates, found.smoothed, "learning rate", "training loss, smoothed",
        f"{found.name}: learning rate range test", faint=found.losses, marks=marks, ceiling=ceiling,
    )  # fmt: skip


def _batch_curve(found: BatchTest) -> Curve:
    """Return the throughput over the batch sizes."""
    fits = [one for one in found.measured if one.rate is not None]
    return Curve(
        [one.size for one in fits], [one.rate or 0.0 for one in fits], "batch size", "samples a second",
        f"{found.name}: throughput of training on {found.device}",
        marks={f"suggested: {size}": size for size in found.values.values()},
    )  # fmt: skip


def _braille(dots: set[tuple[int, int]], column: int, row: int) -> str:
    bits = sum(_DOTS[y][x] for y in range(4) for x in range(2) if (2 * column + x, 4 * row + y) in dots)
    return chr(_BRAILLE + bits) if bits else " "


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
