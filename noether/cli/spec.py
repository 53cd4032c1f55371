"""`noether spec`: look at specs, compare them, make them, and say what may stand in them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from noether.cli import spec_init
from noether.cli.options import AsJson, CommandWithOverrides, Overrides, Spec, Trusted, Unset, in_order
from noether.cli.text_file import write_text

app = typer.Typer(help="Look at specs and make them.", no_args_is_help=True, rich_markup_mode=None)
app.command("init", epilog=spec_init.EXAMPLE)(spec_init.init)
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to this file instead.", show_default=False),
]


@app.command(
    "resolve",
    cls=CommandWithOverrides,
    epilog="Example: noether spec resolve specs/experiment.toml -o resolved.toml",
)
def resolve(
    ctx: typer.Context,
    spec: Spec,
    overrides: Overrides = [],
    unset: Unset = [],
    trusted: Trusted = [],
    output: Output = None,
) -> None:
    """Print SPEC with every default and where every kind comes from; running that is the same run.

    Reads no data: what a model infers from its first sample, such as the number of inputs, stays unset.
    """
    from noether.kernel.registry import use_registry
    from noether.spec.load import load_spec
    from noether.spec.resolve import resolved_toml

    loaded = load_spec(spec, in_order(ctx, overrides, unset), trusted=trusted)
    with use_registry(loaded.registry):
        _write(resolved_toml(loaded.spec), output)


@app.command(
    "explain",
    cls=CommandWithOverrides,
    epilog="Example: noether spec explain trainer.max_epochs specs/experiment.toml",
)
def explain(
    ctx: typer.Context,
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="A key as -s takes it: trainer.callbacks[val].max_size.", show_default=False
        ),
    ],
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="The TOML file of the run.", show_default=False)
    ] = None,
    overrides: Overrides = [],
    unset: Unset = [],
    trusted: Trusted = [],
    as_json: AsJson = False,
) -> None:
    """Say what KEY means: type, unit, default, what it may be; with SPEC also its value and who set it."""
    from noether.cli.explanation import print_explanation, print_meanings
    from noether.errors import UsageError
    from noether.kernel.registry import Registry, use_registry
    from noether.spec.describe.explain import documented, explained
    from noether.spec.load import load_spec

    if spec is not None:
        loaded = load_spec(spec, in_order(ctx, overrides, unset), trusted=trusted)
        with use_registry(loaded.registry):
            print_explanation(explained(key, loaded), as_json=as_json)
    elif overrides or unset:
        option = "-s" if overrides else "--unset"
        hint = f"noether spec explain {key} SPEC {option} …"
        raise UsageError(f"{option} goes with a spec, which is missing", hint=hint)
    else:
        with use_registry(Registry.installed(trusted=trusted, project_folders=(Path.cwd(),))):
            print_meanings(key, documented(key), as_json=as_json)


@app.command("diff", epilog="Example: noether spec diff specs/experiment.toml runs/terrain-20260401-101500-ab12")
def diff(
    left: Annotated[str, typer.Argument(metavar="A", help="A spec, a run folder or a run id.", show_default=False)],
    right: Annotated[str, typer.Argument(metavar="B", help="What to compare with.", show_default=False)],
    trusted: Trusted = [],
    output: Annotated[str, typer.Option("--runs", metavar="FOLDER", help="Where run ids are looked up.")] = "runs",
    as_json: AsJson = False,
) -> None:
    """List the keys in which A and B differ, with both values; every default counts.

    A run also holds what it found out when it began, such as its device and the sizes of the model.

    Exit codes: 0 they mean the same, 1 they differ, 2 one of them cannot be read.
    """
    from noether.cli.spec_sides import tables_of
    from noether.spec.diff import ABSENT, differences
    from noether.spec.errors.words import toml_literal

    found = differences(*(tables_of(side, Path(output), trusted) for side in (left, right)))
    if as_json:
        print(json.dumps([_row(difference.key, difference.left, difference.right) for difference in found], indent=1))
    elif found:
        print(f"- {left}\n+ {right}")
        for difference in found:
            print(f"\n{difference.key}")
            for sign, value in (("-", difference.left), ("+", difference.right)):
                print(f"  {sign} {'unset' if value is ABSENT else toml_literal(value)}")
    else:
        print("no difference")
    raise typer.Exit(1 if found else 0)


def _row(key: str, left: object, right: object) -> dict[str, object]:
    from noether.spec.diff import ABSENT

    return {"key": key} | {name: value for name, value in (("left", left), ("right", right)) if value is not ABSENT}


@app.command("schema", epilog="Example: noether spec schema -o .noether/spec.schema.json")
def schema(output: Output = None, trusted: Trusted = []) -> None:
    """Print the JSON Schema of every spec that is valid with what is installed.

    An editor that checks TOML with it (tombi, or its plugin for your editor) completes keys and kinds and marks what is
    wrong. Name the file in a spec's first line: `#:schema ../.noether/spec.schema.json`.
    """
    from noether.kernel.registry import Registry
    from noether.spec.schema import schema_of

    made, unreadable = schema_of(Registry.installed(trusted=trusted, project_folders=(Path.cwd(),)))
    for kind in unreadable:
        print(f"note: {kind.role} '{kind.kind}' takes any option: {kind.reason}", file=sys.stderr)
    _write(json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n", output)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
        print(f"wrote {output}")
