"""`noether plugins check`: a package of plugins before it is published."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from noether.errors import UsageError
from noether.kernel.entries import BUILT_IN, GROUPS, PLUGIN_PREFIX, installed_entries, normal
from noether.kernel.names import did_you_mean

_KIND = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def problems_of(folder: Path) -> list[str]:
    """Return what is wrong with a package, without importing it.

    Args:
        folder: The folder that holds its `pyproject.toml`.

    Raises:
        UsageError: if that cannot be read.
    """
    project = _project(folder)
    points = {group: table for group, table in project.get("entry-points", {}).items() if group.startswith("noether.")}
    found = [*_of_metadata(project), *_of_entry_points(folder, points, str(project.get("name", "")))]
    if not points:
        known = ", ".join(sorted(GROUPS))
        found.append(f'no plugin: expected a table [project.entry-points."noether.…"], one of {known}')
    return [*found, *_of_imports(folder), *_of_contracts(folder, points)]


def _project(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project")
    except (OSError, ValueError) as error:
        hint = "give the folder of a package with a pyproject.toml"
        raise UsageError(f"cannot read {path}: {error}", hint=hint) from error
    if not isinstance(project, dict):
        raise UsageError(f"{path} has no table [project]", hint="noether plugins new NAME writes a whole package")
    return project


def _of_metadata(project: dict[str, Any]) -> Iterator[str]:
    name = str(project.get("name", ""))
    if not normal(name).startswith(PLUGIN_PREFIX):
        yield f"name = {name!r}: expected {PLUGIN_PREFIX}…, by which people find it, and specs qualify its kinds"
    for field in ("description", "readme", "requires-python"):
        if not project.get(field):
            yield f"missing {field} of [project]"
    ours = version(BUILT_IN)
    for text in project.get("dependencies", []):
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            yield f"wrong dependency {text!r}: {error}"
            continue
        if normal(requirement.name) != BUILT_IN:
            continue
        if not any(one.operator in ("<", "<=", "==", "~=") for one in requirement.specifier):
            yield f"{text!r} takes every later version: expected an upper bound, such as {BUILT_IN}>={ours},<1"
        if not requirement.specifier.contains(ours, prereleases=True):
            yield f"{text!r} does not take the installed {BUILT_IN} {ours}"
        return
    yield f"missing dependency on {BUILT_IN}: expected a range such as {BUILT_IN}>={ours},<1"


def _of_entry_points(folder: Path, points: dict[str, Any], name: str) -> Iterator[str]:
    taken = {(entry.role, entry.normal_name): entry for entry in installed_entries() if entry.is_built_in}
    for group, table in points.items():
        role = GROUPS.get(group)
        if role is None:
            yield f"unknown group {group}.{did_you_mean(group, GROUPS)}"
            continue
        for kind, target in table.items():
            if not _KIND.fullmatch(kind):
                yield f"{group}: wrong kind {kind!r}, expected lower-case letters, digits and single hyphens"
            if (role.name, normal(kind)) in taken:
                qualified = f"{normal(name).removeprefix(PLUGIN_PREFIX)}/{kind}"
                yield f"{group}: {kind!r} is built in; a spec would have to name yours '{qualified}'"
            if _file_of(folder, str(target).partition(":")[0]) is None:
                yield f"{group}: {kind} = {target!r} names no module below {folder}"


def _file_of(folder: Path, module: str) -> Path | None:
    parts = module.split(".")
    places = (root.joinpath(*parts) for root in (folder / "src", folder))
    files = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def _of_imports(folder: Path) -> Iterator[str]:
    """Yield imports of private names of Noether, which any version may change."""
    for path in sorted([*(folder / "src").rglob("*.py"), *(folder / "tests").rglob("*.py")]):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError) as error:
            yield f"{path}: {error}"
            continue
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        for node in imports:
            names = [f"{node.module}.{alias.name}" for alias in node.names if str(node.module).startswith("noether")]
            private = [name for name in names if any(part.startswith("_") for part in name.split("."))]
            yield from (f"{path}:{node.lineno}: imports {name}, which is private" for name in private)


def _of_contracts(folder: Path, points: dict[str, Any]) -> Iterator[str]:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in sorted((folder / "tests").rglob("*.py")))
    for group, table in points.items():
        for kind in table if group in GROUPS else ():
            if not re.search(rf"""["'](?:[\w.-]+/)?{re.escape(kind)}["']""", tests) or "Contract" not in tests:
                contract = f"{_CONTRACTS.get(GROUPS[group].name, GROUPS[group].name.capitalize())}Contract"
                yield f"no contract of {kind!r} in {folder / 'tests'}: expected class Test…({contract}): config = …"


_CONTRACTS = {"plugin": "RunPlugin"}


def run_tests(folder: Path) -> None:
    """Run the tests of a package in a process of its own.

    Raises:
        UsageError: if one fails, or there is none.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if code := subprocess.run(command, cwd=folder, check=False).returncode:
        raise UsageError(f"its tests fail: pytest ends with {code}", hint=f"cd {folder} && python -m pytest")
