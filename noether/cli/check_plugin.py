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
from noether.kernel.entries import BUILT_IN, GROUPS, PLUGIN_PREFIX, TABLE, installed_entries, normal
from noether.kernel.names import did_you_mean
from noether.spec.tables import can_be_table

_KIND = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def problems_of(folder: Path) -> list[str]:
    """Return what is wrong with a package, without importing it.

    Args:
        folder: The folder that holds its `pyproject.toml`.

    Raises:
        UsageError: if that cannot be read.
    """
    project = _project(folder)
    groups = project.get("entry-points", {})
    tables = groups.items() if isinstance(groups, dict) else ()
    points = {group: table for group, table in tables if group.startswith("noether.") and isinstance(table, dict)}
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
    dependencies = project.get("dependencies", [])
    for text in map(str, dependencies if isinstance(dependencies, list) else [dependencies]):
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
            if role is TABLE:
                if not can_be_table(kind):
                    yield f"{group}: wrong name {kind!r}, expected a Python name that is no other part of a spec"
            elif not _KIND.fullmatch(kind):
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
        if (tree := _tree(path)) is None:
            yield f"{path}: expected Python, which this is not"
            continue
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        for node in imports:
            names = [f"{node.module}.{alias.name}" for alias in node.names if str(node.module).startswith("noether")]
            private = [name for name in names if any(part.startswith("_") for part in name.split("."))]
            yield from (f"{path}:{node.lineno}: imports {name}, which is private" for name in private)


def _of_contracts(folder: Path, points: dict[str, Any]) -> Iterator[str]:
    tested = set(_tested_kinds(folder / "tests"))
    for group, table in points.items():
        for kind in table if group in GROUPS else ():
            if normal(kind) not in tested:
                contract = f"{_CONTRACTS.get(GROUPS[group].name, GROUPS[group].name.capitalize())}Contract"
                yield f"no contract of {kind!r} in {folder / 'tests'}: expected class Test…({contract}): config = …"


_CONTRACTS = {"plugin": "RunPlugin", "table": "RunPlugin"}


def _tested_kinds(tests: Path) -> Iterator[str]:
    """Yield the texts in classes that derive from a contract, as kinds are compared; a kind may be qualified."""
    for path in sorted(tests.rglob("*.py")):
        for node in ast.walk(_tree(path) or ast.Module([], [])):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Contract") for base in node.bases):
                texts = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
                yield from (normal(text.rpartition("/")[2]) for text in texts if isinstance(text, str))


def _tree(path: Path) -> ast.Module | None:
    """Return the code of a file; None if it is none."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return None


def run_tests(folder: Path) -> None:
    """Run the tests of a package in a process of its own.

    Raises:
        UsageError: if one fails, or there is none.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if code := subprocess.run(command, cwd=folder, check=False).returncode:
        raise UsageError(f"its tests fail: pytest ends with {code}", hint=f"cd {folder} && python -m pytest")
