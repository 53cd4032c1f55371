"""`noether spec`: resolve, explain, compare and make specs, and write their schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noether.cli.options import RUNS, AsJson, Spec, SpecOptions, Trusted, argument, verb, verbs
from noether.cli.output import print_facts, print_file, print_json, print_table, say, write_text

if TYPE_CHECKING:
    from noether.spec.explain import Explanation
    from noether.spec.lookup import Meaning
    from noether.spec.overlay import Difference


app = verbs("Look at specs and make them.")
OutputFile = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write to this file instead.", show_default=False),
]


@verb(app, "init", example="noether spec init specs/wing.toml --data data/wing.npz --targets pressure")
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The spec to write.")] = Path("spec.toml"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Train on a file (.csv, .tsv, .parquet, .npz, .safetensors, .h5, .zarr), a pattern ('parts/*.csv'), "
            "or a folder of images.",
            show_default="handwritten digits",
        ),
    ] = None,
    targets: Annotated[
        str, typer.Option(metavar="NAME,…", help="Columns or arrays to predict.", show_default="all in …_target")
    ] = "",
    inputs: Annotated[
        str, typer.Option(metavar="NAME,…", help="Columns or arrays to predict from.", show_default="the others")
    ] = "",
    categories: Annotated[
        str, typer.Option(metavar="NAME,…", help="Columns of numbers that stand for categories.", show_default="none")
    ] = "",
    model: Annotated[
        str | None, typer.Option(metavar="KIND", help="The model.", show_default="mlp, cnn for a folder of images")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run.", show_default="the file's")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs to train for.", show_default="20 to 200, by the size of the data")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples of one update.", show_default="16 to 64, by the size of the data")
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
) -> None:
    """Write a first spec, with comments.

    It runs as it is. Nothing is asked, and no file is overwritten. The columns of the data are listed with their types,
    ranges, missing values and use. Texts become categories; a target of texts is a classification. Without --data, the
    spec trains on handwritten digits, images that come with scikit-learn.
    """
    from noether.errors import UsageError
    from noether.kernel.registry import active_registry
    from noether.spec.scaffold import BEST, DIGITS, Choices, spec_text

    if not data and (targets or inputs or categories):
        raise UsageError("--targets, --inputs and --categories name arrays of a data file", hint="name it with --data")
    content = DIGITS
    if data:
        from noether.data.sources.survey import content_of

        content = content_of(data, file.parent, *map(_names, (inputs, targets, categories)))
    model = model or ("cnn" if content.dataset["kind"] == "images" else "mlp")
    active_registry().find("model", model)
    choices = Choices(_run_name(name or file.stem), model, epochs, batch_size, lr)
    write_text(file, spec_text(content, choices, str(file)), replace=False)
    if content.rows:
        print_table(content.rows)
    say(f"wrote {file}; next: noether run {file}")
    if content.has_validation:
        say(f"then: noether predict RUN --checkpoint {BEST} --data NEW --out predictions.csv")


@verb(app, "resolve", example="noether spec resolve specs/experiment.toml -o resolved.toml")
def resolve(spec: Spec, options: SpecOptions, output: OutputFile = None) -> None:
    """Print SPEC with every default.

    The output also holds the origin of every kind; running it is the same run. Reads no data: sizes that a model infers
    from its first sample, such as the number of inputs, stay unset.
    """
    from noether.kernel.registry import use_registry
    from noether.spec.model import resolved_toml

    loaded = options.load(spec)
    with use_registry(loaded.registry):
        _write(resolved_toml(loaded.spec), output)


@verb(app, "explain", example="noether spec explain trainer.max_epochs specs/experiment.toml")
def explain(
    key: Annotated[
        str,
        argument("KEY", "A key as in -s: trainer.callbacks[val].max_size.", "keys"),
    ],
    options: SpecOptions,
    spec: Annotated[Path | None, argument("SPEC", "The TOML file of the run.", "specs")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain KEY, and with SPEC its value.

    Shows meaning, type, unit, default and allowed kinds; with SPEC also every layer that sets the key.
    """
    from noether.kernel.registry import Registry, use_registry
    from noether.spec.explain import documented, explained

    if spec is not None:
        loaded = options.load(spec)
        with use_registry(loaded.registry):
            _print_explanation(explained(key, loaded), as_json=as_json)
        return
    _check_no_overrides(key, options)
    with use_registry(Registry.installed(trusted=options.trusted, project_folders=(Path.cwd(),))):
        _print_meanings(key, documented(key), as_json=as_json)


def _check_no_overrides(key: str, options: SpecOptions) -> None:
    from noether.errors import UsageError
    from noether.spec.read.overrides import Unset

    if options.overrides:
        option = "--unset" if all(isinstance(override, Unset) for override in options.overrides) else "-s"
        hint = f"noether spec explain {key} SPEC {option} …"
        raise UsageError(f"{option} goes with a spec, which is missing", hint=hint)


def _print_explanation(explanation: Explanation, *, as_json: bool) -> None:
    """Print the value of a key, the layers that set it, and its documentation."""
    facts = _facts(explanation.meaning)
    if explanation.holder:
        facts = {"entry of": explanation.holder, **facts}
    if as_json:
        said = [{"value": said.value, "where": said.where} for said in explanation.said]
        print_json({"key": explanation.key, "value": explanation.value, "said": said, **facts})
        return
    say(f"{explanation.key} = {_shown(explanation.value)}")
    owner = f" of {explanation.meaning.owner}" if explanation.meaning.owner else ""
    lines = [(_shown(said.value), said.where) for said in explanation.said]
    if not explanation.holder:
        lines.append(("-", "no default") if facts["default"] == "required" else (facts["default"], f"default{owner}"))
    print_facts(lines, indent="  ")
    say()
    print_facts(facts.items(), indent="  ")


def _print_meanings(key: str, meanings: Sequence[Meaning], *, as_json: bool) -> None:
    """Print the documentation of a key; kinds with the same documentation share one section."""
    groups: dict[str, tuple[dict[str, str], list[str]]] = {}
    for meaning in meanings:
        facts = _facts(meaning)
        groups.setdefault(json.dumps(_compared(facts)), (facts, []))[1].append(meaning.owner)
    if as_json:
        print_json([{"key": key, "of": owners, **facts} for facts, owners in groups.values()])
        return
    for number, (facts, owners) in enumerate(groups.values()):
        named = ", ".join(filter(None, owners))
        say(f"{chr(10) if number else ''}{key}{f' of {named}' if named else ''}")
        print_facts((_compared(facts) if len(owners) > 1 else facts).items(), indent="  ")


def _facts(meaning: Meaning) -> dict[str, str]:
    """Return the documentation of a field, in the order to show it."""
    from noether.spec.explain import (
        allowed_kinds,
        bounds_of,
        default_of,
        example_of,
        keys_of,
        type_of,
        unit_of,
    )
    from noether.spec.lookup import field_of

    field = field_of(meaning)
    facts = {
        "meaning": " ".join((field.description or "").split()),
        "type": ", ".join(filter(None, (type_of(field), bounds_of(field)))),
        "unit": unit_of(meaning.name, field) or "",
        "default": default_of(field),
        "example": example_of(field) or "",
        "kinds": ", ".join(allowed_kinds(meaning)),
        "keys": ", ".join(keys_of(meaning)),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _compared(facts: dict[str, str]) -> dict[str, str]:
    """Return the facts without a description that only names the class of the option."""
    return {name: fact for name, fact in facts.items() if name != "meaning" or not fact.startswith("`")}


def _shown(value: Any) -> str:
    from noether.config.secrets import mask
    from noether.spec.errors.words import toml_literal
    from noether.spec.explain import UNSET

    return "unset" if value is UNSET else mask(toml_literal(value))


@verb(app, "diff", example="noether spec diff specs/experiment.toml runs/terrain-20260401-101500-ab12")
def diff(
    left: Annotated[str, argument("A", "A spec, a run folder or a run id.")],
    right: Annotated[str, argument("B", "The one to compare with.")],
    trusted: Trusted = [],
    runs: Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="The folder that holds the runs.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """List the keys in which A and B differ.

    Both values are shown, and every default counts. The spec of a run also holds values found at its start, such as the
    device and the sizes of the model.

    Exit codes: 0 they mean the same, 1 they differ, 2 one of them cannot be read.
    """
    from noether.spec.overlay import differences

    found = differences(*(_tables_of(side, runs, trusted) for side in (left, right)))
    if as_json:
        print_json([_difference_json(difference) for difference in found])
    else:
        _print_differences(left, right, found)
    raise typer.Exit(1 if found else 0)


@verb(app, "schema", example="noether spec schema -o .noether/spec.schema.json")
def schema(
    spec: Annotated[Path | None, argument("SPEC", "Also know the tables of its run plugins.", "specs")] = None,
    output: OutputFile = None,
    trusted: Trusted = [],
) -> None:
    """Print the JSON Schema of specs.

    It knows every kind and table that is installed, and with a valid SPEC the tables of run plugins that it uses and
    that no package registers: those of `noether_plugin.py` beside it, or of a module of your project.

    An editor that checks TOML with it (tombi, or its plugin for your editor) completes keys and kinds and marks
    mistakes. Name the file in a spec's first line: `#:schema ../.noether/spec.schema.json`.
    """
    import json

    from noether.kernel.registry import Registry
    from noether.spec.load import load_spec
    from noether.spec.schema import schema_of

    if spec is None:
        registry, use = Registry.installed(trusted=trusted, project_folders=(Path.cwd(),)), []
    else:
        loaded = load_spec(spec, trust=trusted)
        registry, use = loaded.registry, loaded.spec.plugins.use
    made, unreadable = schema_of(registry, use)
    for kind in unreadable:
        say(f"note: {kind.role} '{kind.kind}' takes any option: {kind.reason}", to_stderr=True)
    _write(json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n", output)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _run_name(stem: str) -> str:
    """Return the name of a run made from the name of a file."""
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-") or "run"


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print_file(text)
    else:
        write_text(output, text)
        say(f"wrote {output}")


def _difference_json(difference: Difference) -> dict[str, Any]:
    """Return a key with the values of both sides; a side without a value is left out."""
    from noether.spec.overlay import ABSENT

    sides = {"left": difference.left, "right": difference.right}
    return {"key": difference.key} | {side: value for side, value in sides.items() if value is not ABSENT}


def _print_differences(left: str, right: str, found: Iterable[Difference]) -> None:
    from noether.spec.errors.words import toml_literal
    from noether.spec.overlay import ABSENT

    say(f"- {left}\n+ {right}" if found else "no difference")
    for difference in found:
        say(f"\n{difference.key}")
        for sign, value in (("-", difference.left), ("+", difference.right)):
            say(f"  {sign} {'unset' if value is ABSENT else toml_literal(value)}")


def _tables_of(side: str, runs: Path, trusted: Iterable[str]) -> dict[str, Any]:
    """Return the resolved tables of a spec or a run.

    The resolved spec of a run is not validated, so that runs of components that are not installed can be compared.

    Raises:
        SpecError: if there is no spec or run of this name, or the spec is wrong.
    """
    from noether.checkpoint.paths import PathProvider
    from noether.kernel.registry import use_registry
    from noether.runs.saved_spec import copy_in_checkpoint, has_saved_spec, read_saved_spec
    from noether.spec.load import load_spec
    from noether.spec.model import resolved_tables

    for folder in (Path(side).absolute(), runs / side):
        paths = PathProvider(folder.parent, folder.name)
        if has_saved_spec(paths) or copy_in_checkpoint(paths) is not None:
            return read_saved_spec(paths).tables
    loaded = load_spec(_spec_file(side, runs), trust=trusted)
    with use_registry(loaded.registry):
        return resolved_tables(loaded.spec)


def _spec_file(side: str, runs: Path) -> Path:
    from noether.errors import SpecError
    from noether.kernel.names import did_you_mean

    if Path(side).is_dir():
        raise SpecError(f"{side} is not a run folder: it has no resolved spec")
    if not Path(side).exists() and not side.endswith(".toml"):
        known = sorted(folder.name for folder in runs.iterdir()) if runs.is_dir() else []
        raise SpecError(
            f"there is no spec or run {side!r}.{did_you_mean(side, known)}",
            hint=f"a run id is looked up in {runs}; --runs names another folder",
        )
    return Path(side)
