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
from noether.spec.errors.problem import InvalidSpecError, Problem
from noether.spec.errors.translate import problems_of
from noether.spec.ids import item_ids
from noether.spec.locate import TomlPath
from noether.spec.model import RunSpec
from noether.spec.read.document import MAX_PROBLEMS, not_numbers_in, plain
from noether.spec.read.environment import Readings, passwords_in, read_environment
from noether.spec.read.layering import THE_SPEC, layered, located, override
from noether.spec.read.layers import Node, Origins
from noether.spec.read.overrides import Unset
from noether.spec.read.reference import KeptReference, Reference


def complete(
    spec: RunSpec, origins: Origins, folder: Path, references: Mapping[TomlPath, Reference] | None = None
) -> None:
    """Give every callback its id, make input paths absolute and note what the environment said, in place.

    Args:
        spec: A validated spec.
        origins: Where its values come from: a path is relative to the folder of the file that says it, and to the
            working folder where the command line, Python or the environment does.
        folder: What paths start from that are defaults: the folder of the spec file.
        references: The values that the environment holds.
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
    """Return a path, or the paths of a list or table, absolute and of the type that it has; a URL stays."""
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
    """Return a reference to a path whose default no longer depends on the file that it is written in."""
    if "default" not in reference.table:
        return reference
    folder = origins.of(path)[0].layer.folder
    default = plain({"default": _absolute(reference.table["default"], path, lambda _: folder)})
    return Reference(reference.table | default)


def _keep(spec: RunSpec, references: Mapping[TomlPath, Reference]) -> None:
    """Let dumps of the spec say the references instead of what they stand for."""
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
"""A spec beside it is a part of a run's folder, which may come from a stranger, as may the folders above it. Dotted
kinds in it name the code of the project in which the user stands, never code that lies in or came with the run."""


@dataclass(frozen=True)
class LoadedSpec:
    """A spec that is valid, and what it was loaded from.

    Attributes:
        spec: The validated spec.
        source_text: The TOML text as it was given, without the files that it extends and without overrides.
        path: The file; None for a spec from Python.
        project_folder: The project's root: its code may be named by dotted kinds.
        registry: What the kinds were resolved with; keep it active (`use_registry`) while building the run.
        origins: Where every value comes from.
        document: What all layers say together, before any default of a field.
        notes: What to know of how it was understood: changes to files of an older format, ids that may surprise.
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
        """What messages call the spec: its file, or `the spec`."""
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
        overrides: Arguments of `-s`: `path=value` or `path+=value`, later ones on top; `Unset` paths among them.
        set: Overrides with Python values by dotted path, on top of those; None removes a key.
        unset: Paths to remove before any override.
        trusted: Top-level packages beyond the project's own that dotted kinds may import.
        registry: What to resolve kinds with; by default everything installed.
        plugins: Run plugins that take part beside those that the spec uses: they may log what others read.
        project: The folder of the code of one's own that dotted kinds may import, beside the working folder; by
            default that of the spec.

    Raises:
        SpecError: The file cannot be read; as `InvalidSpecError` with all problems where the spec or an override
            does not hold what it should.
    """
    root, text, path, notes = layered(source)
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
        notes = (*notes, *id_notes(readings.table))
    return LoadedSpec(spec, text, path, project, registry, origins, readings.table, notes)


def _validated(root: Node, origins: Origins, problems: list[Problem], origin: str) -> tuple[RunSpec, Readings]:
    """Return the spec that the layers make, or raise all problems together."""
    readings = read_environment(root, RunSpec)
    table = readings.table
    problems = [*problems, *readings.problems, *passwords_in(readings.table, readings.references)]
    found: list[Problem] = []
    more = 0
    spec: RunSpec | None = None
    try:
        spec = RunSpec.model_validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        found, more = problems_of(error, table, RunSpec)
    if not more:
        told = {(problem.path, problem.message) for problem in found}
        beside = (problem for problem in check(table) if (problem.path, problem.message) not in told)
        found += islice(beside, MAX_PROBLEMS)
    told_of = {problem.path[:length] for problem in found for length in range(1, len(problem.path) + 1)}
    found += islice((nan for nan in not_numbers_in(readings.table) if nan.path not in told_of), MAX_PROBLEMS)
    unread = {problem.path for problem in readings.problems}
    problems += [problem for problem in found if problem.path not in unread]
    if spec is None or problems:  # outside of the handler: what pydantic says may hold a part of a secret
        more += max(0, len(problems) - MAX_PROBLEMS)
        raise InvalidSpecError(located(problems[:MAX_PROBLEMS], origins), origin=origin, more=more)
    return spec, readings


def _project_of_user(run: Path) -> Path:
    """Return the project in which the user stands; whoever stands in the run itself stands in none."""
    standing = Path.cwd()
    return run if standing.is_relative_to(run.resolve()) else _project_folder(standing)


def _project_folder(folder: Path) -> Path:
    """Return the nearest folder at or above `folder` that is a project's root, else `folder` itself."""
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).exists() for mark in _PROJECT_MARKS):
            return candidate
    return folder
