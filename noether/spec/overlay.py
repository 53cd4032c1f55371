"""Overlays: small specs that extend another one with some values, as measurements and sweeps suggest them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from noether.errors import SpecError, StorageError, UsageError
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.model import resolved_tables
from noether.spec.read.overrides import parse_path

MARK = "Written by `noether"
"""Beginning of the first remark of an overlay: only files that begin so are replaced."""


def write_overlay(
    base: LoadedSpec,
    path: Path,
    values: Mapping[str, Any],
    remarks: Sequence[str],
    options: Mapping[str, Any],
) -> Path:
    """Write an overlay, load it, and return its path if it is the spec that was meant.

    Args:
        base: The spec that it extends, loaded from a file.
        path: The file to write.
        values: Values by path.
        remarks: Lines of comments at its beginning, the first with `MARK`.
        options: Overrides, run plugins and trusted packages of both.

    Raises:
        UsageError: if it would replace another file, or a spec there cannot say the same; nothing is left then.
        StorageError: if the disk refuses.
    """
    text = _text(base, path, values, remarks)
    if text is None:
        raise UsageError(
            f"no overlay for {', '.join(values)}: found a path through a list, where a file replaces or adds items",
            hint="give the values with -s",
        )
    require_own(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        found, expected = load_spec(path, **options), load_spec(base.path or "", **options, set=values)
        is_same = resolved_tables(found.spec) == resolved_tables(expected.spec)
        problem = None if is_same else "an override of the command line changes them"
    except SpecError as error:  # such as a base outside of the project of the file
        problem = error.problems[0].message if isinstance(error, InvalidSpecError) else error.message
    if problem is not None:
        path.unlink()
        raise UsageError(
            f"{path} cannot hold the values: {problem}", hint="let --out name a file beside the spec, or use -s"
        )
    return path


def require_own(path: Path) -> None:
    """Check that a file may be replaced: it does not exist, or is an overlay.

    Raises:
        UsageError: if it is another file.
        StorageError: if it cannot be read.
    """
    try:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]:
            raise UsageError(f"{path} exists already, and no measurement wrote it", hint="give another file to --out")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _text(base: LoadedSpec, path: Path, values: Mapping[str, Any], remarks: Sequence[str]) -> str | None:
    """Return the text of an overlay; None if a path leads through a list."""
    assert base.path is not None, "the spec is a file"
    tables: dict[str, Any] = {"extends": [os.path.relpath(base.path, path.parent)]}
    if all(source.layer.origin == "default" for source in base.origins.of(("name",))):
        tables["name"] = base.spec.name  # else it would be that of this file
    for place, value in values.items():
        table, below = tables, base.document
        *parents, last = parse_path(place)
        for part in (*parents, last):
            if not isinstance(part, str) or isinstance(below, list):
                return None
            below = below.get(part, {}) if isinstance(below, dict) else {}
        for part in parents:
            table = table.setdefault(str(part), {})
        table[str(last)] = value
    return "\n".join([*(f"# {line}" for line in remarks), tomli_w.dumps(tables)])
