"""Assembly of a spec's layers: files and what they extend, defaults, overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from noether.errors import SpecError
from noether.spec.errors.place import Place
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.words import described, quoted
from noether.spec.locate import TomlPath
from noether.spec.migrating import migrated
from noether.spec.read.document import MAX_BYTES, MAX_FILES, Document, plain, read_document
from noether.spec.read.layers import FileLayer, Layer, Node, Origins, merged, node_of
from noether.spec.read.overrides import apply_override, parse_override, python_override


def located(problems: Iterable[Problem], origins: Origins) -> list[Problem]:
    """Return the problems with the places of what they are about; those that know theirs stay as they are.

    Something missing is placed at the table that should hold it, or at the first line of the file.
    """
    return [problem if problem.places else replace(problem, places=_places(problem, origins)) for problem in problems]


def _places(problem: Problem, origins: Origins) -> tuple[Place, ...]:
    places = (_place(path, origins, key=problem.on_key) for path in problem.at or (problem.path,))
    found = list(dict.fromkeys(place for place in places if place is not None))
    if len(found) < 2:
        return tuple(found)
    if problem.labels is None:  # none of them is to blame more than the others
        found.sort(key=_in_reading_order)
    first, others = problem.labels or _TOGETHER
    return tuple(replace(place, label=others if number else first) for number, place in enumerate(found))


def _in_reading_order(place: Place) -> tuple[bool, bool, int, str, int, int]:
    """Files before arguments, what is extended before what extends it."""
    length = 0 if place.is_file else len(place.origin)  # argument 2 comes before argument 10
    return not place.is_file, place.via is None, length, place.origin, place.line, place.column


_TOGETHER = ("first set here", "and here")


def _place(path: TomlPath, origins: Origins, *, key: bool) -> Place | None:
    """Return where the newest layer writes a path; for a path that nobody writes, its table."""
    written, sources = origins.nearest(path)
    on_key = key and written == path
    if written != path:  # of the layers that mention the table, the one that has its header
        sources = tuple(sorted(sources, key=lambda source: not source.layer.opens(source.path)))
    places = (source.key_place if on_key else source.place for source in sources)
    return next((place for place in places if place is not None), None)


KEY = "extends"


def file_layers(path: Path) -> list[FileLayer]:
    """Return a spec file and all that it extends, each below those that extend it.

    A file that several others extend is read once and lies where it is first met.

    Raises:
        SpecError: A file cannot be read or parsed, extends itself by whatever way, or they are too many or too large.
    """
    chain = _Reader()
    chain.add(read_document(path), [path])
    return chain.layers


def base_layers(table: dict[str, Any], layer: Layer) -> list[FileLayer]:
    """Return the files that a spec from Python extends; what it says of them is taken out of its table.

    Raises:
        SpecError: See `file_layers`.
    """
    reader = _Reader()
    reader.add_bases(table, layer, [])
    return reader.layers


class _Reader:
    def __init__(self) -> None:
        self.layers: list[FileLayer] = []
        self._known: set[Path] = set()
        self._size = 0

    def add(self, document: Document, chain: list[Path]) -> None:
        """Add the layers of a file: those that it extends, then its own."""
        self._known.add(document.path.resolve())
        layer = FileLayer(document.path, document.source, {})
        layer.table = plain(migrated(document.table, layer), layer)
        self.add_bases(layer.table, layer, chain)
        self.layers.append(layer)

    def add_bases(self, table: dict[str, Any], layer: Layer, chain: list[Path]) -> None:
        bases = table.pop(KEY, [])
        if not isinstance(bases, list):
            hint = 'extends = ["base.toml"]'
            raise _wrong(layer, (KEY,), f"found {described(bases)}, expected a list of files", hint)
        for index, base in enumerate(bases):
            if not isinstance(base, str):
                raise _wrong(layer, (KEY, index), f"found {described(base)}, expected the path of a file")
            self._add_base(base, layer, (KEY, index), chain)

    def _add_base(self, base: str, layer: Layer, at: tuple[str | int, ...], chain: list[Path]) -> None:
        folder = chain[-1].parent if chain else Path()
        try:
            path = _tidy(folder / Path(base).expanduser())
        except (ValueError, RuntimeError, OSError) as error:  # no such name, home folder or end of links
            raise _wrong(layer, at, f"{quoted(base)} is no path of a file: {error}") from None
        if path.resolve() in {file.resolve() for file in chain}:
            raise _wrong(layer, at, f"the files extend one another in a circle: {_arrows([*chain, path])}")
        if path.resolve() in self._known:
            return
        if len(self._known) >= MAX_FILES:
            raise _wrong(layer, at, f"a spec is made of more than {MAX_FILES} files")
        place = layer.place(at)
        try:
            document = read_document(path, via=f"{place.origin}:{place.line}" if place else None)
        except InvalidSpecError:
            raise
        except SpecError as error:
            where = f"; the chain is {_arrows([*chain, path])}" if len(chain) > 1 else ""
            hint = f"paths in extends start at the folder of the file that says so: {folder.absolute()}"
            raise _wrong(layer, at, error.message + where, hint) from None
        self._size += len(document.text)
        if self._size > MAX_BYTES:
            raise _wrong(layer, at, f"the files that a spec extends hold more than {MAX_BYTES} characters together")
        self.add(document, [*chain, path])


def _tidy(path: Path) -> Path:
    """Return a path without `..`, where that is the same file."""
    normal = Path(os.path.normpath(path))
    return normal if normal.resolve() == path.resolve() else path


def _wrong(layer: Layer, path: tuple[str | int, ...], message: str, hint: str | None = None) -> InvalidSpecError:
    place: Place | None = layer.place(path)
    return InvalidSpecError([Problem(path, message, hint, (place,) if place else ())], origin=layer.origin)


def _arrows(files: list[Path]) -> str:
    return " → ".join(map(str, files))


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
