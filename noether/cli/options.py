"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The TOML file of the run.", show_default=False)]
Overrides = Annotated[
    list[str],
    typer.Option(
        "-s",
        "--set",
        metavar="PATH=VALUE",
        help="Override a value of the spec, or append to a list with PATH+=VALUE; may be repeated.",
        show_default=False,
    ),
]
Unset = Annotated[
    list[str],
    typer.Option(
        "--unset",
        metavar="PATH",
        help="Remove a value of the spec, in its order among -s; may be repeated.",
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
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder, or its id below --output.", show_default=False)
]
Output = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder that holds the runs.")]
Project = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the code of your own is that the run uses.",
        show_default="the project you stand in",
    ),
]
AllowSpecChange = Annotated[
    bool, typer.Option("--allow-spec-change", help="Continue although the spec changes what training computes.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class CommandWithOverrides(TyperCommand):
    """A verb that remembers in which order its options were given: `-s` and `--unset` depend on it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as usual, and note the order."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[_ORDER] = [parameter.name for parameter in given]
        return super().parse_args(ctx, args)


def in_order(ctx: typer.Context, overrides: Sequence[str], unset: Sequence[str]) -> list[str]:
    """Return what `-s` and `--unset` say as one list in the order of the command line."""
    from noether.spec.read.overrides import Unset as UnsetPath

    given = {"overrides": iter(overrides), "unset": map(UnsetPath, unset)}
    return [next(given[name]) for name in ctx.meta[_ORDER] if name in given]


_ORDER = "noether.order"
