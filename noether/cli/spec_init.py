"""`noether spec init`: write a first spec, for an example or for a data file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noether.cli.output import say, write_text

if TYPE_CHECKING:
    from noether.spec.scaffold import Content

EXAMPLE = "noether spec init specs/wing.toml --data data/wing.npz --targets pressure"


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The spec to write.")] = Path("spec.toml"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Train on this file: .npz, .safetensors, .parquet or .csv.", show_default="handwritten digits"
        ),
    ] = None,
    targets: Annotated[
        str, typer.Option(metavar="NAME,…", help="Arrays of --data to predict.", show_default="all in …_target")
    ] = "",
    inputs: Annotated[
        str, typer.Option(metavar="NAME,…", help="Arrays of --data to predict from.", show_default="all real others")
    ] = "",
    model: Annotated[str, typer.Option(metavar="KIND", help="The model.")] = "mlp",
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="the file's")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train for.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of one update.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
) -> None:
    """Write a first spec, with comments.

    It runs as it is. Nothing is asked, and no file is overwritten. Without --data, the spec trains on handwritten
    digits, images that come with scikit-learn.
    """
    from noether.errors import UsageError
    from noether.kernel.registry import active_registry
    from noether.spec.scaffold import DIGITS, Choices, spec_text

    active_registry().find("model", model)
    if not data and (targets or inputs):
        raise UsageError("--targets and --inputs name arrays of a data file", hint="name it with --data")
    content = _content(data, file, _names(inputs), _names(targets)) if data else DIGITS
    choices = Choices(_plain(name or file.stem), model, epochs, batch_size, lr)
    write_text(file, spec_text(content, choices, str(file)), replace=False)
    say(f"wrote {file}; next: noether run {file}")


def _content(data: Path, spec: Path, inputs: list[str], targets: list[str]) -> Content:
    """Read the arrays of a data file, and return the parts of a spec that depend on them."""
    from noether.data.sources.columns import facts_of, read_columns
    from noether.spec.scaffold import content_of_file

    samples, properties = facts_of(data, read_columns(data, None))
    path = Path(os.path.relpath(data, spec.parent)).as_posix()
    return content_of_file(str(data), path, samples, properties, inputs, targets)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _plain(stem: str) -> str:
    """Return the name of a run made from the name of a file."""
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-") or "run"
