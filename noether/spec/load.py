"""From files, overrides and what is installed to a validated `RunSpec`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from noether.kernel.registry import Registry, use_registry
from noether.spec.checks import check
from noether.spec.completion import complete
from noether.spec.environment import Readings, read_environment
from noether.spec.id_notes import id_notes
from noether.spec.layering import THE_SPEC, layered, override
from noether.spec.limits import MAX_PROBLEMS
from noether.spec.meaning import meaning_problems
from noether.spec.model import RunSpec
from noether.spec.not_numbers import not_numbers_in
from noether.spec.origins import Node, Origins
from noether.spec.override import Unset
from noether.spec.passwords import passwords_in
from noether.spec.placing import located
from noether.spec.problem import InvalidSpecError, Problem
from noether.spec.translate import problems_of

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
