"""`noether data show`: the data sets of a spec, summed up."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_drawn, print_json, print_table, say, write_text
from noether.errors import NoetherError, UsageError

if TYPE_CHECKING:
    from noether.runs.data.summary import DatasetFacts, PropertyFacts

app = verbs("Look at the data of a spec.")
_SUFFIXES = (".html", ".png")


@app.callback()
def _group() -> None:
    """Look at the data of a spec."""


@verb(app, "show", example="noether data show specs/experiment.toml train --out data.html")
def show(
    spec: Spec,
    options: SpecOptions,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="The data set.", show_default="all")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Show the samples before their transforms.")] = False,
    limit: Annotated[
        int, typer.Option(metavar="SAMPLES", min=1, help="Most samples of a data set to read, spread evenly over it.")
    ] = 10_000,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="Time after which no more samples of it are read.")
    ] = 30.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page (.html), or the pictures (.png).", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the data sets of SPEC hold.

    It shows counts, ranges, missing values, distributions, classes and samples. Nothing is trained.

    Exit codes: 0 done, 2 wrong spec or data.
    """
    if out is not None and out.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"unknown format of --out: found {out.suffix!r}, expected one of {', '.join(_SUFFIXES)}")
    from noether.runs.data.summary import facts_of
    from noether.runs.prepare import preparation
    from noether.spec.load import load_spec

    loaded = load_spec(spec, options.overrides, trust=options.trusted, plugins=options.plugins)
    found, failed = [], None
    with preparation(loaded, options.plugins) as prepared:
        data = prepared.data()
        for each in data.keys() if key is None else [key]:  # not a mapping
            try:
                found.append(facts_of(data, each, raw=raw, limit=limit, seconds=seconds))
            except NoetherError as error:
                if key is not None or failed is not None:
                    raise
                failed = error
    if as_json:
        print_json({facts.key: _json(facts) for facts in found})
    elif out is None:
        for facts in found:
            print_data(facts)
    if out is not None:
        _write(out, spec.name, found)
    if failed is not None:
        raise failed


def _json(facts: DatasetFacts) -> dict[str, Any]:
    """Return facts for JSON; its pictures are named only."""
    rows = [{**asdict(each), "is_constant": each.is_constant} for each in facts.properties]
    named = {name: len(several) for name, several in facts.pictures.items()}
    own = {"kind": facts.kind, "samples": facts.samples, "read": facts.read, "seconds": round(facts.seconds, 3)}
    return own | {"properties": rows, "examples": facts.examples, "pictures": named}


def _write(out: Path, title: str, found: list[DatasetFacts]) -> None:
    from noether.runs.data.pictures import html, sheet

    if out.suffix.lower() == ".html":
        write_text(out, html(f"Data of {title}", found))
    elif (content := sheet(found)) is None:
        raise UsageError(
            "no pictures in these data sets, expected some for a .png", hint="write a page: --out FILE.html"
        )
    else:
        write_text(out, content)
    say(f"wrote {out}")


def print_data(found: DatasetFacts) -> None:
    """Print the facts of a data set: properties, classes, pictures and samples."""
    from noether.runs.data.pictures import classes, headline, in_terminal

    say(f"\n{headline(found)}\n")
    print_table([_row(facts) for facts in found.properties], indent="  ")
    for facts in found.properties:
        if facts.classes is not None:
            say(f"\n  {facts.name}: {len(facts.classes)} different values\n    {classes(facts)}")
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for name, pictures in found.pictures.items():
        say(f"\n  {name}")
        for line in in_terminal(pictures, colored=colored):
            print_drawn(f"    {line}")
    if found.examples:
        say("\n  samples")
        names = list(dict.fromkeys(name for example in found.examples for name in example))
        print_table([{name: example.get(name, "") for name in names} for example in found.examples], indent="    ")


def _row(facts: PropertyFacts) -> dict[str, str]:
    from noether.runs.data.pictures import bars, number, remarks, shape

    is_number = facts.low is not None
    return {
        "property": facts.name,
        "type": facts.dtype,
        "sample": shape(facts),
        "low": number(facts.low),
        "mean": number(facts.mean) if is_number else "",
        "std": number(facts.deviation) if is_number else "",
        "high": number(facts.high),
        "distribution": bars(facts.sketch),
        "remarks": ", ".join(remarks(facts)),
    }
