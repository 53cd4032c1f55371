"""`extends = ["base.toml"]`: the files that a spec is made of, the lowest layer first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from noether.errors import SpecError
from noether.spec.describe import described
from noether.spec.document import Document, read_document
from noether.spec.layer import FileLayer, Layer
from noether.spec.limits import MAX_BYTES, MAX_FILES
from noether.spec.migrating import migrated
from noether.spec.place import Place
from noether.spec.plain import plain
from noether.spec.problem import InvalidSpecError, Problem, quoted

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
