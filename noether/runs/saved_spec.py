"""The resolved spec in a run folder: the only module that reads, loads or writes it.

A run folder is untrusted data: its spec is read within the limits of any spec, it extends no other file, it is
never followed out of the folder, and it names no code that lies there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from noether.checkpoint.durable import replace_file
from noether.checkpoint.manifest import SPEC
from noether.checkpoint.paths import PathProvider, checkpoint_folders, read_file, read_manifest
from noether.checkpoint.untrusted import is_file_inside, read_untrusted
from noether.config.components import SpecTable
from noether.errors import CheckpointError, SpecError, UsageError
from noether.runs.folder.run_folder import read_run
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.errors.translate import problems_of
from noether.spec.load import LoadedSpec, load_spec
from noether.spec.read.document import read_document
from noether.spec.read.environment import concealed, read_environment
from noether.spec.read.layering import layered

PROJECT = "project"
"""Key in `run.json` of the project folder from which the run was started."""
SPEC_SHA256 = "spec_sha256"
"""Key in `run.json`, and in the record of an attempt, of the hash of its resolved spec."""

_LOG = logging.getLogger("noether.run")
_Part = TypeVar("_Part", bound=SpecTable)
_ORIGIN = re.compile(r".* from (?P<name>[A-Za-z0-9][A-Za-z0-9._-]*) (?P<version>[0-9][A-Za-z0-9.+!]*)")


@dataclass(frozen=True, slots=True)
class SavedSpec:
    """The resolved spec of a run, not validated: its components may no longer be installed.

    Attributes:
        tables: The settings, with every default.
        origins: `<kind> from <distribution> <version>` by the place of each component.
        sha256: Hash of the text, as manifests of checkpoints hold it.
    """

    tables: dict[str, Any]
    origins: dict[str, str]
    sha256: str


def has_saved_spec(paths: PathProvider) -> bool:
    """Return True if a run folder holds a resolved spec; a process may have died before it wrote one."""
    return is_file_inside(paths.run_path, paths.resolved_spec_path)


def read_saved_spec(paths: PathProvider) -> SavedSpec:
    """Read the resolved spec of a run without importing anything that it names.

    If it cannot be read, the copy in the newest checkpoint is read in its place, and a warning names it.

    Raises:
        SpecError: if there is no copy, and it is missing, leads out of the run folder, extends other files, exceeds the
            limits of a spec, or is not TOML.
    """
    return _readable(paths)[1]


def _readable(paths: PathProvider) -> tuple[Path, SavedSpec]:
    """Return the resolved spec of a run that `read_saved_spec` reads, and its file."""
    try:
        return paths.resolved_spec_path, read_spec_file(paths)
    except SpecError as error:
        if (copy := copy_in_checkpoint(paths)) is None:
            raise
        _LOG.warning("%s; the copy in %s is used", error.message, copy.parent.name)
        return copy, read_spec_file(paths, copy)


def copy_in_checkpoint(paths: PathProvider) -> Path | None:
    """Return the copy of the spec in the newest checkpoint that has a sound one; None if there is none."""
    with suppress(CheckpointError):  # the folder of the checkpoints may be a link
        for folder in reversed(checkpoint_folders(paths.checkpoint_path)):
            with suppress(CheckpointError):
                read_file(folder, read_manifest(folder), SPEC)
                return folder / SPEC
    return None


def read_spec_file(paths: PathProvider, path: Path | None = None) -> SavedSpec:
    """Read a resolved spec in the folder of a run, and no other one in its place; see `read_saved_spec`.

    Args:
        paths: Paths of the run.
        path: The file; by default the one that the run has written.
    """
    path = path or paths.resolved_spec_path
    if not is_file_inside(paths.run_path, path):
        if os.path.lexists(path):
            raise SpecError(f"{path} is not a regular file of the run folder", hint="copy the file itself into the run")
        raise SpecError(f"the run has no spec: {path} is missing", hint="name a run that `noether run` began")
    document = read_document(path)
    tables = document.table
    if "extends" in tables:
        raise SpecError(
            f"the spec of a run cannot extend other files: found `extends` in {path}",
            hint="remove it; the saved spec holds every setting already",
        )
    resolved = tables.pop("resolved", {})
    kinds = resolved.get("kinds") if isinstance(resolved, dict) else None
    origins = {place: str(origin) for place, origin in kinds.items()} if isinstance(kinds, dict) else {}
    return SavedSpec(tables, origins, hashlib.sha256(document.text.encode()).hexdigest())


def load_saved_spec(
    paths: PathProvider, *, project: Path | None = None, trusted: Iterable[str] = (), **options: Any
) -> LoadedSpec:
    """Load and validate the resolved spec of a run.

    Args:
        paths: Paths of the run.
        project: Project folder with the code that the spec names; by default the project of the working folder.
        trusted: Packages that dotted kinds may import beside the usual ones.
        **options: Further arguments of `noether.load_spec`.

    Raises:
        SpecError: if the spec cannot be read or a component cannot be found; notes name the project of the run and
            its plugins that are not installed.
    """
    with noting_missing_code(paths, project):
        return load_spec(_readable(paths)[0], project=project, trust=trusted, **options)


def read_part(paths: PathProvider, part: type[_Part]) -> _Part:
    """Validate some tables of a saved spec with the current environment, and import nothing for the others.

    Args:
        paths: Paths of the run.
        part: Model whose fields name the tables.

    Raises:
        SpecError: if the spec cannot be read, one of the tables does not fit, or a variable is not set.
    """
    return validated_part(read_saved_spec(paths).tables, part, str(paths.resolved_spec_path))


def validated_part(tables: Mapping[str, Any], part: type[_Part], origin: str) -> _Part:
    """Validate some tables of a spec; see `read_part`.

    Args:
        tables: All tables.
        part: As in `read_part`.
        origin: Name of the spec in messages.

    Raises:
        SpecError: if one of the tables does not fit, or a variable is not set.
    """
    root = layered({key: tables[key] for key in part.model_fields if key in tables}).root
    readings = read_environment(root, part)
    problems = readings.problems
    found: _Part | None = None
    try:
        found = part.model_validate_json(json.dumps(readings.table), strict=True)
    except ValidationError as error:
        problems = problems or concealed(problems_of(error, readings.table, part)[0], readings.references)
    if found is None or problems:  # outside of the handler: what pydantic says may hold a part of a secret
        raise InvalidSpecError(problems, origin=origin)
    return found


def write_saved_spec(paths: PathProvider, given: str, resolved: str, *, former: Path) -> None:
    """Write the spec of a new attempt as it was given and as it is resolved.

    Args:
        paths: Paths of the run.
        given: Text of the spec file.
        resolved: Text of the resolved spec.
        former: File that keeps the resolved spec of the attempt before, if this one differs.

    Raises:
        StorageError: if the disk refuses.
    """
    run = paths.run_path
    before = read_untrusted(run, paths.resolved_spec_path) if has_saved_spec(paths) else None
    if before == resolved.encode():
        return
    if before is not None:
        replace_file(former, before, inside=run)
    replace_file(paths.spec_path, given.encode(), inside=run)
    replace_file(paths.resolved_spec_path, resolved.encode(), inside=run)


@contextmanager
def noting_missing_code(paths: PathProvider, project: Path | None) -> Iterator[None]:
    """Add notes to an error: the project folder and the plugins of the run, if they may be missing.

    The project folder is named and never searched: the run folder may come from a stranger.
    """
    try:
        yield
    except UsageError as error:
        was = _recorded_project(paths)
        if project is None and was is not None and was != Path.cwd():
            option = f"--project {shlex.quote(str(was))}"
            way = f"{option} looks for its code there; in Python project={str(was)!r}"
            error.add_note(f"the run was started from the project {was}; {way}")
        for name, version in _missing_plugins(paths):
            error.add_note(f"the run used {name} {version}, which is not installed: pip install '{name}=={version}'")
        raise


def _recorded_project(paths: PathProvider) -> Path | None:
    found = read_run(paths.run_path).get(PROJECT)
    return Path(found) if isinstance(found, str) and found.isprintable() else None


def _missing_plugins(paths: PathProvider) -> list[tuple[str, str]]:
    """Return name and version of each distribution that the run used and that is not installed."""
    try:
        origins = read_saved_spec(paths).origins.values()
    except SpecError:
        return []
    found = [match for match in map(_ORIGIN.fullmatch, origins) if match is not None]
    return sorted({(one["name"], one["version"]) for one in found if not _is_installed(one["name"])})


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
