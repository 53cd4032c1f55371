"""Assembly of a spec's layers: files and what they extend, defaults, overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from noether.errors import SpecError
from noether.spec.errors.problem import InvalidSpecError, Problem, problem_at
from noether.spec.errors.words import described, quoted
from noether.spec.locate import Place, TomlPath
from noether.spec.model import VERSION
from noether.spec.read.document import MAX_BYTES, MAX_FILES, Document, plain, read_document
from noether.spec.read.layers import FileLayer, Layer, Node, Origins, merged, node_of
from noether.spec.read.overrides import apply_override, parse_override, python_override

THE_SPEC = "the spec"
"""Name of a spec from Python in messages."""
_EXTENDS = "extends"
_TOGETHER = ("first set here", "and here")


def located(problems: Iterable[Problem], origins: Origins) -> list[Problem]:
    """Return the problems with their places in the layers; problems that have places keep them.

    A missing key is placed at the table that should hold it, or at the first line of the file.
    """
    return [problem if problem.places else replace(problem, places=_places(problem, origins)) for problem in problems]


def _places(problem: Problem, origins: Origins) -> tuple[Place, ...]:
    places = (_place(path, origins, key=problem.on_key) for path in problem.at or (problem.path,))
    found = list(dict.fromkeys(place for place in places if place is not None))
    if len(found) < 2:
        return tuple(found)
    if problem.labels is None:  # no value is more wrong than the others
        found.sort(key=_in_reading_order)
    first, others = problem.labels or _TOGETHER
    return tuple(replace(place, label=others if number else first) for number, place in enumerate(found))


def _in_reading_order(place: Place) -> tuple[bool, bool, int, str, int, int]:
    """Sort files before arguments, and extended files before the files that extend them."""
    length = 0 if place.is_file else len(place.origin)  # argument 2 comes before argument 10
    return not place.is_file, place.via is None, length, place.origin, place.line, place.column


def _place(path: TomlPath, origins: Origins, *, key: bool) -> Place | None:
    """Return the place in the newest layer that writes a path; for a path in no layer, the place of its table."""
    written, sources = origins.nearest(path)
    on_key = key and written == path
    if written != path:  # prefer the layer that has the header of the table
        sources = tuple(sorted(sources, key=lambda source: not source.layer.opens(source.path)))
    places = (source.key_place if on_key else source.place for source in sources)
    return next((place for place in places if place is not None), None)


_PROJECT_MARKS = ("pyproject.toml", ".git")


def project_folder(folder: Path) -> Path:
    """Return the nearest folder at or above `folder` that is a project's root, else `folder` itself."""
    return next(filter(is_project_root, (folder, *folder.parents)), folder)


def is_project_root(folder: Path) -> bool:
    """Return True if a folder is a project's root."""
    return any((folder / mark).exists() for mark in _PROJECT_MARKS)


def file_layers(path: Path, readable: Iterable[Path]) -> list[FileLayer]:
    """Return a spec file and all files that it extends, the lowest layer first.

    A file that several others extend is read once, at its first place.

    Args:
        path: The file.
        readable: Files and folders that may be read: no other one is opened, also not by a link.

    Raises:
        SpecError: if a file cannot be read or parsed, is not readable, or extends itself, or the files exceed a limit.
    """
    chain = _Reader(readable)
    if chain.leads_out(path):
        real = path.resolve()
        raise SpecError(
            f"{path} leads out of the project: found a link to {real}",
            hint=f"name the file itself, or if you trust it: --trust {real}",
            code="outside-project",
        )
    chain.add(read_document(path), [path])
    return chain.layers


def base_layers(table: dict[str, Any], layer: Layer, readable: Iterable[Path]) -> list[FileLayer]:
    """Return the files that a spec from Python extends, and remove `extends` from its table.

    Raises:
        SpecError: As `file_layers` does; Python code may extend files anywhere.
    """
    reader = _Reader(readable)
    reader.add_bases(table, layer, [])
    return reader.layers


class _Reader:
    """Reader of a file and the files that it extends, with limits on all of them together."""

    def __init__(self, readable: Iterable[Path]) -> None:
        self.layers: list[FileLayer] = []
        self._readable = [place.resolve() for place in readable]
        self._known: set[Path] = set()
        self._size = 0

    def leads_out(self, path: Path) -> bool:
        """Return True if a file, its links resolved, is not among those that may be read."""
        try:
            real = path.resolve()
        except (ValueError, RuntimeError, OSError):  # a NUL, or links in a circle: reading it says so
            return False
        return not any(real.is_relative_to(place) for place in self._readable)

    def add(self, document: Document, chain: list[Path]) -> None:
        """Add the layers of a file: the files that it extends, then its own."""
        self._known.add(document.path.resolve())
        layer = FileLayer(document.path, document.source, {})
        layer.table = plain(document.table, layer)
        _check_version(layer.table, layer)
        self.add_bases(layer.table, layer, chain)
        self.layers.append(layer)

    def add_bases(self, table: dict[str, Any], layer: Layer, chain: list[Path]) -> None:
        """Add the files that a table extends, and remove `extends` from it."""
        bases = table.pop(_EXTENDS, [])
        if not isinstance(bases, list):
            message = f"found {described(bases)}, expected a list of files"
            raise _wrong(layer, "invalid-extends", (_EXTENDS,), message, 'extends = ["base.toml"]')
        for index, base in enumerate(bases):
            at = (_EXTENDS, index)
            if not isinstance(base, str):
                raise _wrong(layer, "invalid-extends", at, f"found {described(base)}, expected the path of a file")
            self._add_base(base, layer, at, chain)

    def _add_base(self, base: str, layer: Layer, at: TomlPath, chain: list[Path]) -> None:
        folder = chain[-1].parent if chain else Path()
        try:
            path = tidy(folder / Path(base).expanduser())
        except (ValueError, RuntimeError, OSError) as error:  # a NUL, no home folder, or links in a circle
            raise _wrong(layer, "invalid-extends", at, f"{quoted(base)} is not a path: {error}") from None
        if not chain:  # Python code may read any file, and names this one
            self._readable.append(project_folder(path.resolve().parent))
        if self.leads_out(path):
            message = f"{quoted(base)} leads out of the project: found {path.resolve()}"
            hint = f"copy the file into the project, or if you trust it: --trust {path.resolve()}"
            raise _wrong(layer, "outside-project", at, message, hint)
        if path.resolve() in {file.resolve() for file in chain}:
            message = f"the files extend one another in a circle: {_arrows([*chain, path])}"
            raise _wrong(layer, "invalid-extends", at, message)
        if path.resolve() in self._known:
            return
        if len(self._known) >= MAX_FILES:
            raise _wrong(layer, "too-large", at, f"too many files: found more than {MAX_FILES}, expected at most that")
        document = self._read_base(path, layer, at, [*chain, path])
        self._size += len(document.text)
        if self._size > MAX_BYTES:
            message = f"extended files are too large: found more than {MAX_BYTES} characters together"
            raise _wrong(layer, "too-large", at, message)
        self.add(document, [*chain, path])

    def _read_base(self, path: Path, layer: Layer, at: TomlPath, chain: list[Path]) -> Document:
        place = layer.place(at)
        try:
            return read_document(path, via=f"{place.origin}:{place.line}" if place else None)
        except InvalidSpecError:
            raise
        except SpecError as error:
            where = f"; extended by {_arrows(chain)}" if len(chain) > 2 else ""
            folder = (chain[-2].parent if len(chain) > 1 else Path()).absolute()
            hint = f"paths in extends are relative to the folder of their file: {folder}"
            raise _wrong(layer, error.code or "unreadable-file", at, error.message + where, hint) from None


def tidy(path: Path) -> Path:
    """Return a path without `..`, unless that is another file."""
    normal = Path(os.path.normpath(path))
    return normal if normal.resolve() == path.resolve() else path


def _wrong(layer: Layer, code: str, path: TomlPath, message: str, hint: str | None = None) -> InvalidSpecError:
    return InvalidSpecError([problem_at(layer.place(path), code, path, message, hint)], origin=layer.origin)


def _arrows(files: list[Path]) -> str:
    return " → ".join(map(str, files))


class Layered(NamedTuple):
    """The merged files of a spec.

    Attributes:
        root: Their values.
        text: The TOML text of the spec alone, without the files that it extends.
        path: Its file; None for a spec from Python.
    """

    root: Node
    text: str
    path: Path | None


def layered(source: str | Path | Mapping[str, Any], readable: Iterable[Path] = ()) -> Layered:
    """Return a file, or a dict, merged over all files that it extends.

    Args:
        source: The file or the dict.
        readable: Files and folders that may be read.

    Raises:
        SpecError: if a file cannot be read, or the files do not fit together.
    """
    if isinstance(source, Mapping):
        layer = Layer(THE_SPEC, Path.cwd())
        given = plain(dict(source), layer)
        text = tomli_w.dumps(given)
        _check_version(given, layer)
        bases = base_layers(given, layer, readable)
        root = _merged([*((file, file.table) for file in bases), (layer, given)])
        return Layered(root, text, None)
    files = file_layers(Path(source), readable)
    main = files[-1]
    return Layered(_merged([(file, file.table) for file in files]), main.source.text, main.path)


def override(root: Node, arguments: Sequence[str], values: Mapping[str, Any], path: Path | None) -> list[Problem]:
    """Apply overrides to a document in place, and return their problems.

    Args:
        root: The merged files.
        arguments: Overrides of the command line, in their order.
        values: Overrides from Python by dotted path.
        path: The file, whose name is the default name of the run.
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
    _add_defaults(root, path)  # an override may have removed a key that has a default
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
    """Add the defaults that depend on the file, or that validation must see: the name, MLflow as tracker."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower())[:80].strip("._-") if path else ""
    defaults = node_of({"name": name or "run", "trackers": [{"kind": "mlflow"}]}, Layer("default", Path.cwd()))
    root.content = {**defaults.content, **root.content}


def _check_version(table: Mapping[str, Any], layer: Layer) -> None:
    """Refuse a layer in a later format before its keys are compared with those of this one.

    Raises:
        InvalidSpecError: if the table is in a later format.
    """
    found = table.get("spec", VERSION)
    if not isinstance(found, int) or isinstance(found, bool) or found <= VERSION:  # validation refuses what is left
        return
    message = f"unsupported format of specs: found spec = {found}, expected spec = {VERSION}"
    hint = f"pip install --upgrade noether-train; {version('noether-train')} is installed"
    raise _wrong(layer, "unsupported-version", ("spec",), message, hint)
