"""The trackers of a run that exists, built from its resolved spec alone: nothing else of the run is imported."""

from __future__ import annotations

import json
import tomllib
from typing import Annotated, Any

from pydantic import Field, ValidationError

from noether.checkpoint.paths import PathProvider
from noether.config.base import component_of, construction_of
from noether.config.discriminated import Discriminated
from noether.errors import SpecError
from noether.metrics.tracker import BaseTracker
from noether.spec.errors.problem import InvalidSpecError
from noether.spec.errors.translate import problems_of
from noether.spec.model import SpecTable
from noether.spec.read.environment import read_environment
from noether.spec.read.layering import layered


class _TrackersTable(SpecTable):
    trackers: list[Annotated[Any, Discriminated("tracker")]] = Field(default_factory=list)


def kept_tables(paths: PathProvider) -> dict[str, Any]:
    """Return the tables of a run's resolved spec.

    Raises:
        SpecError: It cannot be read.
    """
    path = paths.resolved_spec_path
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"cannot read {path}: {error}", hint="name a run that `noether run` began") from error


def kept_trackers(paths: PathProvider) -> list[BaseTracker]:
    """Construct the trackers that a run's resolved spec names, with what the environment holds now.

    Raises:
        SpecError: One of them is not installed any more, or takes other options, or a variable is not set.
    """
    origin = str(paths.resolved_spec_path)
    root = layered({"trackers": kept_tables(paths).get("trackers", [])}).root
    readings = read_environment(root, _TrackersTable)
    problems = readings.problems
    table = _TrackersTable()
    try:
        table = _TrackersTable.model_validate_json(json.dumps(readings.table), strict=True)
    except ValidationError as error:
        problems = problems or problems_of(error, readings.table, _TrackersTable)[0]
    if problems:  # outside of the handler: what pydantic says may hold a part of a secret
        raise InvalidSpecError(problems, origin=origin)
    trackers = []
    for config in table.trackers:
        with construction_of(config):
            trackers.append(component_of(config).target(config))
    return trackers
