"""`noether check`: validate a spec without running it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from noether.cli.options import Overrides, Plugins, Spec, Trusted, Unset, in_order
from noether.errors import NoetherError

EXAMPLE = "Example: noether check specs/experiment.toml -s trainer.precision=bf16"


def check(
    ctx: typer.Context,
    spec: Spec,
    overrides: Overrides = [],
    unset: Unset = [],
    plugins: Plugins = [],
    trusted: Trusted = [],
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also build everything, and try two updates and a save in a temporary folder."),
    ] = False,
    output: Annotated[
        Literal["text", "json", "github"],
        typer.Option("--format", help="Who reads the problems: a person, a program, or a GitHub workflow."),
    ] = "text",
) -> None:
    """Validate SPEC without running it: every key, kind and value, all problems at once.

    Exit codes: 0 valid, 2 not.
    """
    from noether.kernel.participant import load_plugins
    from noether.kernel.registry import use_registry
    from noether.spec.checks.meaning import meaning_notes
    from noether.spec.errors.words import toml_path
    from noether.spec.load import load_spec

    try:
        loaded = load_spec(spec, in_order(ctx, overrides, unset), trusted=trusted, plugins=plugins)
        with use_registry(loaded.registry):
            load_plugins([*loaded.spec.plugins.use, *plugins])
            notes = meaning_notes(loaded.spec, plugins=plugins)
        if deep:
            from noether.runs.deep_check import check_deeply

            check_deeply(loaded, plugins)
    except NoetherError as error:
        if output == "text":
            raise
        _print_problems(error, output)
        raise typer.Exit(error.exit_code) from None
    if output == "text":
        print(f"{spec}: valid")
        for line in loaded.notes:
            print(f"note: {line}")
        for note in notes:
            print(f"note: {toml_path(note.path)}: {note.message}")
    elif output == "json":
        print("[]")


def _print_problems(error: NoetherError, output: Literal["json", "github"]) -> None:
    from noether.spec.errors.formats import as_github, as_json, problems_in

    print(as_json(problems_in(error)) if output == "json" else as_github(problems_in(error)))
