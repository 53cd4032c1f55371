"""The spec in a run's folder, and the code of one's own that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noether.core.providers.path import PathProvider
from noether.core.utils.json_limits import parse_json
from noether.errors import UsageError
from noether.spec.load import LoadedSpec, load_spec

PROJECT = "project"
"""Where in `run.json` the folder of the project stands that the run was started from."""


def load_run_spec(paths: PathProvider, *, project: Path | None = None, **options: Any) -> LoadedSpec:
    """Load the spec of a run that exists.

    Args:
        paths: Those of the run.
        project: The folder of the code of one's own that it names; by default the project that one stands in.
        **options: Further arguments of `noether.load_spec`.

    Raises:
        SpecError: It names what cannot be found; a note says where the run's own code was.
    """
    with telling_of_project(paths, project):
        return load_spec(paths.resolved_spec_path, project=project, **options)


@contextmanager
def telling_of_project(paths: PathProvider, project: Path | None) -> Iterator[None]:
    """Add to an error where the run's own code was, unless the user has said where it is.

    That folder is only named and never searched by itself: a run's folder may come from a stranger.
    """
    try:
        yield
    except UsageError as error:
        was = _recorded_project(paths)
        if project is None and was is not None and was != Path.cwd():
            error.add_note(f"the run was started from the project {was}; --project {was} looks for its code there")
        raise


def _recorded_project(paths: PathProvider) -> Path | None:
    try:
        record = parse_json((paths.run_path / "run.json").read_bytes())
    except (OSError, ValueError):
        return None
    found = record.get(PROJECT) if isinstance(record, dict) else None
    return Path(found) if isinstance(found, str) and json.dumps(found).isascii() else None
