"""From a file, overrides and what is installed to a validated `RunSpec`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from noether.kernel.registry import Registry, use_registry
from noether.spec.checks import check
from noether.spec.completion import complete
from noether.spec.document import read_document
from noether.spec.model import RunSpec
from noether.spec.override import Override, parse_override, parse_path
from noether.spec.overriding import apply_override
from noether.spec.plain import plain
from noether.spec.problem import InvalidSpecError, Problem
from noether.spec.translate import problems_of

_PROJECT_MARKS = ("pyproject.toml", ".git")


@dataclass(frozen=True)
class LoadedSpec:
    """A spec that is valid, and what it was loaded from.

    Attributes:
        spec: The validated spec.
        source_text: The TOML text as it was given, without overrides.
        path: The file; None for a spec from Python.
        project_folder: The project's root: its code may be named by dotted kinds.
        registry: What the kinds were resolved with; keep it active (`use_registry`) while building the run.
    """

    spec: RunSpec
    source_text: str
    path: Path | None
    project_folder: Path
    registry: Registry


def load_spec(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    set: Mapping[str, Any] | None = None,
    *,
    trusted: Iterable[str] = (),
    registry: Registry | None = None,
) -> LoadedSpec:
    """Load and validate a spec.

    Args:
        source: A file, or a dict of the same tables.
        overrides: Arguments of `-s`: `path=value`, later ones on top.
        set: Overrides with Python values by dotted path, on top of those; None removes a key.
        trusted: Top-level packages beyond the project's own that dotted kinds may import.
        registry: What to resolve kinds with; by default everything installed.

    Raises:
        SpecError: The file cannot be read or an override does not fit; as `InvalidSpecError` with all
            problems where the spec does not hold what it should.
    """
    text, table, path = _read(source)
    origin = str(path) if path else "the spec"
    for override in _overrides(overrides, set or {}):
        apply_override(table, override)
    folder = (path.parent if path else Path()).absolute()
    project = _project_folder(folder)
    registry = registry or Registry.installed(trusted=trusted, project_folders=(project, Path.cwd()))
    with use_registry(registry):
        spec = _validated(_with_defaults(table, path), origin)
        complete(spec, folder)
    return LoadedSpec(spec, text, path, project, registry)


def _read(source: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any], Path | None]:
    if isinstance(source, Mapping):
        table = plain(dict(source))
        return tomli_w.dumps(table), table, None
    document = read_document(Path(source))
    return document.text, plain(document.table), document.path


def _overrides(arguments: Sequence[str], values: Mapping[str, Any]) -> list[Override]:
    from_python = [
        Override(path, parse_path(path, path), plain({"value": value}).get("value")) for path, value in values.items()
    ]
    return [*map(parse_override, arguments), *from_python]


def _with_defaults(table: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Return the table with the defaults that no field can have: the file's name, MLflow as tracker."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-") if path else ""
    return {"name": name or "run", "trackers": [{"kind": "mlflow"}], **table}


def _validated(table: dict[str, Any], origin: str) -> RunSpec:
    problems: list[Problem] = list(check(table))
    try:
        spec = RunSpec.model_validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        problems += problems_of(error, table, RunSpec)
        raise InvalidSpecError(problems, origin=origin) from error
    if problems:
        raise InvalidSpecError(problems, origin=origin)
    return spec


def _project_folder(folder: Path) -> Path:
    """Return the nearest folder at or above `folder` that is a project's root, else `folder` itself."""
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in _PROJECT_MARKS):
            return candidate
    return folder
