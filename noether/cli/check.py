"""`noether check`: validate a spec without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from noether.cli.options import Spec, SpecOptions, verb, verbs
from noether.cli.output import say
from noether.errors import NoetherError

if TYPE_CHECKING:
    from noether.spec.load import LoadedSpec

app = verbs()


@verb(app, "check", example="noether check specs/experiment.toml -s trainer.precision=bf16")
def check(
    spec: Spec,
    options: SpecOptions,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also build everything, and try two updates and a save in a temporary folder."),
    ] = False,
    output: Annotated[
        Literal["text", "json", "github"],
        typer.Option("--format", help="Format of the problems: for a person, a program, or a GitHub workflow."),
    ] = "text",
) -> None:
    """Validate SPEC without running it.

    Every key, kind and value is checked, and all problems are shown at once. Exit codes: 0 valid, 2 not valid.
    """
    from noether.spec.load import load_spec

    try:
        loaded = load_spec(spec, options.overrides, trust=options.trusted, plugins=options.plugins)
        notes = _notes(loaded, options)
        if deep:
            from noether.runs.deep_check import check_deeply

            check_deeply(loaded, options.plugins)
    except NoetherError as error:
        if output == "text":
            raise
        _print_problems(error, output)
        raise typer.Exit(error.exit_code) from None
    if output == "text":
        say("\n".join([f"{spec}: valid", *(f"note: {note}" for note in notes)]))
    elif output == "json":
        say("[]")


def _notes(loaded: LoadedSpec, options: SpecOptions) -> list[str]:
    """Return notes on a valid spec: values that may mean something else than the author thinks."""
    from noether.config.secrets import withheld
    from noether.kernel.discovery import Discovery, discovered
    from noether.kernel.dispatch import require_working
    from noether.kernel.participant import load_plugins
    from noether.kernel.registry import use_registry
    from noether.spec.checks import meaning_notes
    from noether.spec.errors.words import toml_path
    from noether.spec.fields import components_in

    with use_registry(loaded.registry):
        plugins = load_plugins([*loaded.spec.plugins.use, *options.plugins])
        callbacks = {one.kind: one for _, one in components_in(loaded.spec) if one.role == "callback"}
        require_working([*map(discovered, callbacks.values()), *map(Discovery, plugins)])
        found = meaning_notes(loaded.spec, plugins=options.plugins)
    return [*loaded.notes, *(withheld(f"{toml_path(note.path)}: {note.message}") for note in found)]


def _print_problems(error: NoetherError, output: Literal["json", "github"]) -> None:
    from noether.spec.errors.problem import as_github, as_json, problems_in

    say(as_json(problems_in(error)) if output == "json" else as_github(problems_in(error)))
