"""`noether batch-find`: measure which batch size is fast enough, or fits into the memory of an accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.lr_find import Out, file_for, print_curve, print_files, write_found
from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_json, print_table, say, size_in_words

if TYPE_CHECKING:
    from noether.runs.measure.batch_find import BatchTest

app = verbs()

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
    from noether.spec.load import LoadedSpec, load_spec

    given: dict[str, Any] = {"overrides": options.overrides, "plugins": options.plugins, "trust": options.trusted}
    loaded = load_spec(spec, **given)
    overlay = file_for(spec, "batch", out)
    plain = without_callbacks(loaded) | {"trainer.max_updates": 1}

    def load(more: dict[str, Any]) -> LoadedSpec:
        return load_spec(spec, **given, set=plain | more)

    found = find_batch(load, options.plugins, largest=largest, seconds=seconds)
    curve = found.curve()
    curve.save(overlay.with_suffix(".png"))
    written = write_found("batch-find", loaded, overlay, found.values, _remarks(found), given)
    if as_json:
        print_json(
            {
                "name": found.name,
                "device": found.device,
                "suggestion": found.values,
                "reason": found.reason,
                "end": found.end,
                "sizes": [
                    {"size": one.size, "samples_per_s": one.rate, "memory": one.memory} for one in found.measured
                ],
                "picture": str(overlay.with_suffix(".png")),
                "overlay": None if written is None else str(written),
            }
        )
        return
    say(f"{found.name} on {found.device}; {found.end}")
    print_table([_row(one.size, one.rate, one.memory) for one in found.measured])
    print_curve(curve)
    for path, size in found.values.items():
        say(f"{path} = {size}")
    for line in _remarks(found):
        say(f"  {line}")
    print_files(spec, overlay, written, found.values, options.arguments())


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
