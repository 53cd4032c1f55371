"""The lowest versions that are tested are those that the project allows."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[2]


def test_each_requirement_allows_nothing_older_than_the_version_that_is_tested_as_its_lowest():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = dict(line.split("==") for line in (REPOSITORY / ".ci" / "lowest.txt").read_text().split())
    for requirement in map(Requirement, project["dependencies"]):
        (lowest,) = [one.version for one in requirement.specifier if one.operator == ">="]
        assert Version(pinned[canonicalize_name(requirement.name)]) == Version(lowest), requirement
