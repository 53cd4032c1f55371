"""`noether data show`: the data sets of a spec, summed up in a terminal, on a page, or as a picture."""

from __future__ import annotations

import base64
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import AsJson, Spec, SpecOptions, verb, verbs
from noether.cli.output import print_drawn, print_json, print_table, say, write_text
from noether.errors import NoetherError, UsageError
from noether.runs.data_facts import DatasetFacts, PropertyFacts

if TYPE_CHECKING:
    import numpy as np

    from noether.runs.data_facts import DatasetFacts, PropertyFacts

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
    from noether.runs.data_facts import facts_of
    from noether.runs.prepare import preparation

    loaded = options.load(spec)
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


_BARS = "▁▂▃▄▅▆▇█"
_SHADES = " ░▒▓█"
_WIDTH = 16  # characters of a picture in a terminal
_GAP = 4  # pixels between pictures of a grid
_LARGEST = 192  # pixels of a picture in a grid
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2430;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid #dfe4ea;font-variant-numeric:tabular-nums}
th{color:#5a6675;font-weight:600}.n{text-align:right}.s{white-space:nowrap}.warn{color:#b3401a}.scroll{overflow-x:auto}
code{background:#f1f4f7;padding:0 .25rem;border-radius:3px}img{image-rendering:pixelated;max-width:100%}
svg{display:block}rect{fill:#3b74c9}p{color:#5a6675}
@media (prefers-color-scheme:dark){body{background:#14181d;color:#dfe4ea}th,td{border-color:#2c343d}
code{background:#222930}rect{fill:#79a7ee}th,p{color:#9aa6b4}}
"""


def bars(sketch: Sequence[int]) -> str:
    """Return numbers as bars of one line; a number above 0 always has one."""
    most = max(sketch, default=0)
    return "".join(" " if not n else _BARS[min(7, int(8 * n / (most + 1)))] for n in sketch)


def number(value: float | None) -> str:
    """Return a number with four digits, empty for none."""
    return "" if value is None else f"{value:.4g}"


def remarks(facts: PropertyFacts) -> list[str]:
    """Return what a person should look at: missing and infinite numbers, and constant properties."""
    found = [f"{facts.nans:,} missing (NaN)"] if facts.nans else []
    found += [f"{facts.infinities:,} infinite"] if facts.infinities else []
    return found + (["constant"] if facts.is_constant else [])


def shape(facts: PropertyFacts) -> str:
    """Return the shape of a sample, or the smallest and the largest."""
    if facts.shapes is None:
        return ""
    low, high = facts.shapes
    return _shape(low) if low == high else f"{_shape(low)} to {_shape(high)}"


def _shape(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) or "number"


def headline(found: DatasetFacts) -> str:
    """Return a line about a data set, which says how much of it was read."""
    part = "all read" if found.read == found.samples else f"{found.read:,} read, spread evenly over it"
    return f"{found.key} ({found.kind}): {found.samples:,} samples, {part}"


def in_terminal(pictures: Sequence[np.ndarray], *, colored: bool, most: int = 4) -> Iterator[str]:
    """Yield the lines of some pictures side by side: two pixels a character in colour, shades of grey without it."""
    small = [_resized(picture, _WIDTH, 1.0) for picture in pictures[:most]]
    for row in range(0, max(len(picture) for picture in small), 2):
        parts = []
        for picture in small:
            pairs = picture[row : row + 2]
            upper, lower = pairs[0], pairs[-1]
            parts.append("".join(_cell(*pair, colored=colored) for pair in zip(upper, lower, strict=True)))
        yield "  ".join(parts).rstrip()


def _cell(upper: np.ndarray, lower: np.ndarray, *, colored: bool) -> str:
    if not colored:
        return _SHADES[min(4, int(5 * (upper.mean() + lower.mean()) / 2))]
    front, back = (";".join(str(round(255 * value)) for value in pixel) for pixel in (upper, lower))
    return f"\x1b[38;2;{front};48;2;{back}m▀\x1b[0m"


def _resized(picture: np.ndarray, width: int, tall: float) -> np.ndarray:
    """Return the nearest pixels of a picture at another width."""
    import numpy as np

    height = max(2, round(picture.shape[0] / picture.shape[1] * width * tall))
    rows = np.arange(height) * picture.shape[0] // height
    resized: np.ndarray = picture[rows][:, np.arange(width) * picture.shape[1] // width]
    return resized


def grid(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Return pictures in rows of four as one, 0 to 255; small ones are enlarged by whole numbers."""
    import numpy as np

    large = []
    for picture in pictures:
        factor = max(1, 96 // max(picture.shape[:2]))
        sized = picture.repeat(factor, 0).repeat(factor, 1)
        if max(sized.shape[:2]) > _LARGEST:
            sized = _resized(sized, max(2, round(_LARGEST * sized.shape[1] / max(sized.shape[:2]))), 1.0)
        large.append(sized)
    height, width = max(len(each) for each in large), max(each.shape[1] for each in large)
    columns = min(4, len(large))
    rows = -(-len(large) // columns)
    sheet = np.ones((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3))
    for place, each in enumerate(large):
        top, left = place // columns * (height + _GAP), place % columns * (width + _GAP)
        sheet[top : top + len(each), left : left + each.shape[1]] = each
    pixels: np.ndarray = np.rint(sheet * 255).astype(np.uint8)
    return pixels


def png(pixels: np.ndarray) -> bytes:
    """Return a picture of bytes, height by width by 3, as a PNG."""
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(lines))]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in [*parts, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def sheet(found: Sequence[DatasetFacts]) -> bytes | None:
    """Return the pictures of all data sets as one PNG; None if there are none."""
    pictures = [picture for facts in found for several in facts.pictures.values() for picture in several]
    return png(grid(pictures)) if pictures else None


def html(title: str, found: Sequence[DatasetFacts]) -> str:
    """Return a page about data sets that needs no network and no script."""
    sections = "\n".join(_section(facts) for facts in found)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = f"<h1>{escape(title)}</h1>\n{sections}"
    return f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>\n'


def _section(found: DatasetFacts) -> str:
    numbers = "".join(f"<th class=n>{name}" for name in ("low", "mean", "std", "high"))
    head = f"<th>property<th>type<th>sample{numbers}<th>distribution<th>"
    rows = "\n".join(_html_row(facts) for facts in found.properties)
    pictures = "".join(
        f'<h3><code>{escape(name)}</code></h3><img alt="{len(several)} samples of {escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(png(grid(several))).decode()}">'
        for name, several in found.pictures.items()
    )
    names = list(dict.fromkeys(name for example in found.examples for name in example))
    titles = "".join(f"<th>{escape(name)}" for name in names)
    examples = "".join(
        f"<tr>{''.join(f'<td>{escape(example.get(name, str()))}' for name in names)}" for example in found.examples
    )
    first, _, rest = headline(found).partition(": ")
    return (
        f"<h2>{escape(first)}</h2><p>{escape(rest)}</p>"
        f"<div class=scroll><table><tr>{head}\n{rows}</table></div>{pictures}"
        f"<h3>samples</h3><div class=scroll><table><tr>{titles}{examples}</table></div>"
    )


def _html_row(facts: PropertyFacts) -> str:
    given = (facts.low, facts.mean, facts.deviation, facts.high) if facts.low is not None else (None,) * 4
    numbers = "".join(f"<td class=n>{number(value)}" for value in given)
    drawn = _svg(facts.sketch) if facts.classes is None else escape(classes(facts))
    name = f"<td><code>{escape(facts.name)}</code><td>{escape(facts.dtype)}<td class=s>{shape(facts)}"
    return f"<tr>{name}{numbers}<td>{drawn}<td class=warn>{escape(', '.join(remarks(facts)))}"


def classes(facts: PropertyFacts, most: int = 12) -> str:
    """Return the classes of a property with their samples, the first ones."""
    counts = sorted((facts.classes or {}).items(), key=lambda item: -item[1])
    shown = [f"{name}: {count:,}" for name, count in counts[:most]]
    return ", ".join(shown) + (f", and {len(counts) - most} more" if len(counts) > most else "")


def _svg(sketch: Sequence[int]) -> str:
    most = max(sketch, default=0)
    if not most:
        return ""
    marks = "".join(
        f'<rect x="{6 * place}" y="{28 - 28 * n / most:.1f}" width="5" height="{28 * n / most:.1f}"/>'
        for place, n in enumerate(sketch)
        if n
    )
    return f'<svg width="{6 * len(sketch)}" height="28" role="img" aria-label="distribution">{marks}</svg>'
