"""From files, overrides and installed components to a validated `RunSpec`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from noether.config.components import CallBackBaseConfig
from noether.kernel.registry import Registry, use_registry
from noether.spec.checks.meaning import meaning_problems
from noether.spec.checks.structure import check, id_notes
from noether.spec.describe.fields import configs_in, item_at
from noether.spec.errors.problem import MAX_PROBLEMS, InvalidSpecError, Problem
from noether.spec.errors.translate import problems_of
from noether.spec.ids import item_ids
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec
from noether.spec.read.document import not_numbers_in, plain
from noether.spec.read.environment import Readings, passwords_in, read_environment
from noether.spec.read.layering import THE_SPEC, layered, located, override
from noether.spec.read.layers import Node, Origins
from noether.spec.read.overrides import Unset
from noether.spec.read.reference import KeptReference, Reference


def complete(
    spec: RunSpec, origins: Origins, folder: Path, references: Mapping[TomlPath, Reference] | None = None
) -> None:
    """Fill in callback ids, make input paths absolute and keep references to the environment, in place.

    Args:
        spec: A validated spec.
        origins: Sources of its values. A path is relative to the folder of its file; a path from the command line,
            Python or the environment to the working folder.
        folder: Folder of the spec file, which default paths are relative to.
        references: References to the environment that were read, by path.
    """
    references = references or {}

    def start_of(path: TomlPath) -> Path:
        if path in references and references[path].text() is not None:
            return Path.cwd()
        sources = origins.of(path)
        return sources[0].layer.folder if sources else folder

    siblings: dict[TomlPath, list[CallBackBaseConfig]] = {}
    kept = dict(references)
    for path, config in configs_in(spec):
        if isinstance(config, CallBackBaseConfig):
            siblings.setdefault(path[:-1], []).append(config)
        for field in config.path_fields:
            place = (*path, field)
            setattr(config, field, _absolute(getattr(config, field), place, start_of))
            kept |= {path: _settled(path, kept[path], origins) for path in kept if path[: len(place)] == place}
    for callbacks in siblings.values():
        tables = [{"id": config.id, "kind": config.kind} for config in callbacks]
        for config, name in zip(callbacks, item_ids(tables, "callback"), strict=True):
            config.id = name
    _keep(spec, kept)


def _absolute(value: Any, path: TomlPath, start_of: Callable[[TomlPath], Path]) -> Any:
    """Return a path, or a list or table of paths, absolute and of the same type; a URL stays."""
    if isinstance(value, list):
        return [_absolute(item, (*path, index), start_of) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _absolute(item, (*path, key), start_of) for key, item in value.items()}
    if isinstance(value, Path):
        return start_of(path) / value.expanduser()
    if isinstance(value, str) and "://" not in value:
        return str(start_of(path) / Path(value).expanduser())
    return value


def _settled(path: TomlPath, reference: Reference, origins: Origins) -> Reference:
    """Return a reference whose default path no longer depends on the folder of its file."""
    if "default" not in reference.table:
        return reference
    folder = origins.of(path)[0].layer.folder
    default = plain({"default": _absolute(reference.table["default"], path, lambda _: folder)})
    return Reference(reference.table | default)


def _keep(spec: RunSpec, references: Mapping[TomlPath, Reference]) -> None:
    """Make dumps of the spec write references in place of their values."""
    if not references:
        return
    dumped = spec.model_dump(mode="json", exclude_none=True)
    for path, reference in references.items():
        value: Any = dumped
        for part in path:
            value = item_at(value, part)
        spec._references[path] = KeptReference(reference, value)


_PROJECT_MARKS = ("pyproject.toml", ".git")
_RUN_MARK = "run.json"
"""File that marks a run folder. A run folder, and the folders above it, may come from a stranger: dotted kinds of its
spec name code of the project of the working folder, never code in the run folder or beside it."""


@dataclass(frozen=True)
class LoadedSpec:
    """A valid spec and its sources.

    Attributes:
        spec: The validated spec.
        source_text: The TOML text of the spec, without the files that it extends and without overrides.
        path: The file; None for a spec from Python.
        project_folder: The root of the project, whose code dotted kinds may name.
        registry: The registry that resolved the kinds; keep it active (`use_registry`) while building the run.
        origins: Sources of every value.
        document: The merged layers, without defaults of fields.
        notes: Remarks on ids that may surprise.
    """

    spec: RunSpec
    source_text: str
    path: Path | None
    project_folder: Path
    registry: Registry
    origins: Origins
    document: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Name of the spec in messages: its file, or `the spec`."""
        return str(self.path) if self.path else THE_SPEC


def load_spec(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    set: Mapping[str, Any] | None = None,
    *,
    unset: Sequence[str] = (),
    trusted: Iterable[str] = (),
    registry: Registry | None = None,
    plugins: Sequence[str] = (),
    project: Path | None = None,
) -> LoadedSpec:
    """Load and validate a spec.

    Args:
        source: A file, or a dict of the same tables.
        overrides: Arguments of `-s`, `path=value` or `path+=value`, and `Unset` paths; a later one wins.
        set: Overrides with Python values by dotted path, applied after those; None removes a key.
        unset: Paths to remove before any override.
        trusted: Top-level packages that dotted kinds may import, in addition to the project's.
        registry: Registry that resolves kinds; by default everything installed.
        plugins: Run plugins in addition to those of the spec; they may log metrics that callbacks read.
        project: Folder of code that dotted kinds may import, in addition to the working folder; by default the
            project of the spec.

    Raises:
        SpecError: if the file cannot be read; as `InvalidSpecError` with all problems if the spec or an override
            is invalid.
    """
    root, text, path = layered(source)
    origin = str(path) if path else THE_SPEC
    folder = (path.parent if path else Path()).absolute()
    is_of_run = (folder / _RUN_MARK).exists()
    project = project or (_project_of_user(folder) if is_of_run else _project_folder(folder))
    registry = registry or Registry.installed(
        trusted=trusted, project_folders=(project, Path.cwd()), data_folders=(folder,) if is_of_run else ()
    )
    with use_registry(registry):
        problems = override(root, [*map(Unset, unset), *overrides], set or {}, path)
        origins = Origins(root)
        spec, readings = _validated(root, origins, problems, origin)
        complete(spec, origins, folder, readings.references)
        if wrong := meaning_problems(spec, plugins=plugins):
            raise InvalidSpecError(located(wrong, origins), origin=origin)
        notes = tuple(id_notes(readings.table))
    return LoadedSpec(spec, text, path, project, registry, origins, readings.table, notes)


def _validated(root: Node, origins: Origins, problems: list[Problem], origin: str) -> tuple[RunSpec, Readings]:
    """Return the validated spec, or raise all problems together."""
    readings = read_environment(root, RunSpec)
    table = readings.table
    problems = [*problems, *readings.problems, *passwords_in(table, readings.references)]
    found: list[Problem] = []
    more = 0
    spec: RunSpec | None = None
    try:
        spec = RunSpec.model_validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        found, more = problems_of(error, table, RunSpec)
    if not more:
        checked = list(islice(check(table), MAX_PROBLEMS))
        same = {(problem.path, problem.message) for problem in checked}
        found = [*(problem for problem in found if (problem.path, problem.message) not in same), *checked]
    reported = {problem.path[:length] for problem in found for length in range(1, len(problem.path) + 1)}
    found += islice((nan for nan in not_numbers_in(table) if nan.path not in reported), MAX_PROBLEMS)
    unread = {problem.path for problem in readings.problems}
    problems += [problem for problem in found if problem.path not in unread]
    if spec is None or problems:  # outside of the handler: pydantic's error may hold a part of a secret
        more += max(0, len(problems) - MAX_PROBLEMS)
        raise InvalidSpecError(located(problems[:MAX_PROBLEMS], origins), origin=origin, more=more)
    return spec, readings


def _project_of_user(run: Path) -> Path:
    """Return the project of the working folder; none if the working folder is in the run itself."""
    standing = Path.cwd()
    return run if standing.is_relative_to(run.resolve()) else _project_folder(standing)


def _project_folder(folder: Path) -> Path:
    """Return the nearest folder at or above `folder` that is a project's root, else `folder` itself."""
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in _PROJECT_MARKS):
            return candidate
    return folder
