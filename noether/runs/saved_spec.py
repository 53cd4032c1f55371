"""The spec in a run's folder, and the code of one's own that it names."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from noether.core.providers.path import PathProvider
from noether.core.utils.json_limits import parse_json
from noether.errors import UsageError
from noether.spec.load import LoadedSpec, load_spec

PROJECT = "project"
"""Where in `run.json` the folder of the project stands that the run was started from."""

_ORIGIN = re.compile(r".* from (?P<name>[A-Za-z0-9][A-Za-z0-9._-]*) (?P<version>[A-Za-z0-9][A-Za-z0-9.+!]*)")


def load_run_spec(paths: PathProvider, *, project: Path | None = None, **options: Any) -> LoadedSpec:
    """Load the spec of a run that exists.

    Args:
        paths: Those of the run.
        project: The folder of the code of one's own that it names; by default the project that one stands in.
        **options: Further arguments of `noether.load_spec`.

    Raises:
        SpecError: It names what cannot be found; notes say where the run's own code was, and which of its plugins are
            not installed.
    """
    with telling_what_is_missing(paths, project):
        return load_spec(paths.resolved_spec_path, project=project, **options)


@contextmanager
def telling_what_is_missing(paths: PathProvider, project: Path | None) -> Iterator[None]:
    """Add to an error what the run used that may be missing: plugins, and the code of a project nobody has named.

    That folder is only named and never searched by itself: a run's folder may come from a stranger.
    """
    try:
        yield
    except UsageError as error:
        was = _recorded_project(paths)
        if project is None and was is not None and was != Path.cwd():
            error.add_note(f"the run was started from the project {was}; --project {was} looks for its code there")
        for name, version in _missing_plugins(paths):
            error.add_note(f"the run used {name} {version}, which is not installed: pip install '{name}=={version}'")
        raise


def _recorded_project(paths: PathProvider) -> Path | None:
    try:
        record = parse_json((paths.run_path / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    found = record.get(PROJECT) if isinstance(record, dict) else None
    return Path(found) if isinstance(found, str) and json.dumps(found).isascii() else None


def _missing_plugins(paths: PathProvider) -> list[tuple[str, str]]:
    """Return the distributions, with their versions, that the run's components came from and that are not here."""
    try:
        tables = tomllib.loads(paths.resolved_spec_path.read_text(encoding="utf-8"))
        origins = [_ORIGIN.fullmatch(str(origin)) for origin in tables["resolved"]["kinds"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    used = {(found["name"], found["version"]) for found in origins if found is not None}
    return sorted((name, version) for name, version in used if not _is_installed(name))


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
