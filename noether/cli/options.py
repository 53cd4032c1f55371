"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The TOML file of the run.", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option(
        "-s",
        "--set",
        metavar="PATH=VALUE",
        help="Override a value of the spec; may be repeated.",
        show_default=False,
    ),
]
Plugins = Annotated[
    list[str],
    typer.Option("-p", "--plugin", metavar="PLUGIN", help="Use a run plugin; may be repeated.", show_default=False),
]
Trusted = Annotated[
    list[str],
    typer.Option(
        "--trust",
        metavar="PACKAGE",
        help="Let dotted kinds import this package; may be repeated.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
