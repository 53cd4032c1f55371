"""Put the layers of a spec together: the files, the defaults that no field can have, the overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from noether.spec.extends import base_layers, file_layers
from noether.spec.layer import Layer
from noether.spec.merge import merged
from noether.spec.migrating import migrated
from noether.spec.origins import Node, node_of
from noether.spec.override import parse_override, python_override
from noether.spec.overriding import apply_override
from noether.spec.plain import plain
from noether.spec.problem import InvalidSpecError, Problem

THE_SPEC = "the spec"
"""What messages call a spec from Python."""


class Layered(NamedTuple):
    """The files of a spec, put together.

    Attributes:
        root: What they say.
        text: The TOML text of the spec alone, without what it extends.
        path: Its file; None for a spec from Python.
        notes: What was changed to understand files of an older format.
    """

    root: Node
    text: str
    path: Path | None
    notes: tuple[str, ...]


def layered(source: str | Path | Mapping[str, Any]) -> Layered:
    """Return a file, or a dict, on top of all that it extends.

    Raises:
        SpecError: A file cannot be read, or they do not fit together.
    """
    if isinstance(source, Mapping):
        layer = Layer(THE_SPEC, Path.cwd())
        given = plain(dict(source), layer)
        text = tomli_w.dumps(given)
        table = migrated(given, layer)
        bases = base_layers(table, layer)
        root = _merged([*((file, file.table) for file in bases), (layer, table)])
        return Layered(root, text, None, _notes([*bases, layer]))
    files = file_layers(Path(source))
    main = files[-1]
    return Layered(_merged([(file, file.table) for file in files]), main.source.text, main.path, _notes(files))


def _notes(layers: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(note for layer in layers for note in layer.notes)


def override(root: Node, arguments: Sequence[str], values: Mapping[str, Any], path: Path | None) -> list[Problem]:
    """Lay overrides on top of a document, in place, and return what does not fit.

    Args:
        root: The files.
        arguments: Those of the command line, in their order.
        values: Those from Python.
        path: The file, whose name is the run's by default.
    """
    problems: list[Problem] = []
    parsers = [
        *(partial(parse_override, argument, number) for number, argument in enumerate(arguments, start=1)),
        *(partial(python_override, key, value, Path.cwd()) for key, value in values.items()),
    ]
    _add_defaults(root, path)
    for parse in parsers:
        try:
            apply_override(root, parse())
        except InvalidSpecError as error:
            problems += error.problems
    _add_defaults(root, path)  # what was removed is as if nobody had said anything
    return problems


def _merged(layers: Sequence[tuple[Layer, dict[str, Any]]]) -> Node:
    problems: list[Problem] = []
    root: Node | None = None
    for layer, table in layers:
        root = merged(root, node_of(table, layer), problems)
    if problems:
        raise InvalidSpecError(problems, origin=layers[-1][0].origin)
    assert root is not None, "there is at least the spec itself"
    return root


def _add_defaults(root: Node, path: Path | None) -> None:
    """Fill in what no field can have as its default: the file's name, MLflow as tracker."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower())[:80].strip("._-") if path else ""
    defaults = node_of({"name": name or "run", "trackers": [{"kind": "mlflow"}]}, Layer("default", Path.cwd()))
    root.content = {**defaults.content, **root.content}
