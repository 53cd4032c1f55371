"""`noether plugins new` and `check`: a package with one plugin of a role, and any package before it is published."""

from __future__ import annotations

import ast
import keyword
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from noether.errors import UsageError
from noether.kernel.entries import BUILT_IN, COMMAND, GROUPS, PLUGIN, PLUGIN_PREFIX, TABLE, installed_entries, normal
from noether.kernel.names import did_you_mean
from noether.spec.tables import can_be_table

PUBLIC = {
    "noether": "",
    "noether.cli.options": "AsJson Output RunArgument Spec SpecOptions run_id_for verb verbs",
    "noether.cli.output": "print_facts print_json print_table say",
    "noether.config.components": "CallBackBaseConfig CollatorBaseConfig DatasetBaseConfig InitializerConfig "
    "LossBaseConfig ModelBaseConfig OptimizerBaseConfig PeriodicDataIteratorCallbackConfig ScheduleBaseConfig "
    "SpecTable TrackerBaseConfig TransformBaseConfig",
    "noether.config.discriminated": "Discriminated",
    "noether.core.callbacks": "",
    "noether.core.callbacks.base": "",
    "noether.core.callbacks.checkpoint": "",
    "noether.core.callbacks.default": "",
    "noether.core.callbacks.early_stoppers": "EarlyStopIteration FixedEarlyStopperCallback "
    "FixedEarlyStopperCallbackConfig MetricEarlyStopperCallback MetricEarlyStopperCallbackConfig",
    "noether.core.callbacks.online": "",
    "noether.core.callbacks.periodic": "IntervalType PeriodicCallback PeriodicDataIteratorCallback",
    "noether.core.callbacks.tree": "NestedCallbacks",
    "noether.core.initializers": "",
    "noether.core.models": "",
    "noether.core.providers": "",
    "noether.core.schemas.callbacks": "",
    "noether.core.schemas.lib": "",
    "noether.core.trackers": "",
    "noether.core.utils.training": "",
    "noether.core.writers": "",
    "noether.data": "",
    "noether.data.collators": "concat pad stack",
    "noether.data.dataset": "Dataset InMemoryDataset StoredDataset",
    "noether.data.sources.columns": "array_names assembled checked_names from_numpy",
    "noether.data.sources.file": "FileConfig FileDataset",
    "noether.data.transforms": "Normalize NormalizeConfig Transform",
    "noether.errors": "CheckpointError DataError ExpectationError NoetherError NonFiniteError PluginError SpecError "
    "StorageError TrainingError UsageError error_text",
    "noether.optim.schedules": "Schedule",
    "noether.testing": "",
    "noether.training.callbacks": "OfflineLossCallback OfflineLossCallbackConfig OfflineMetricsCallback "
    "OfflineMetricsCallbackConfig",
    "noether.training.trainers": "",
}
"""Modules that plugins may import, each with its public names; without any, those of its `__all__`."""
_PAGE = "docs/reference/public-names.md"
_PARTS = re.compile(r"^=== \w+\n", re.MULTILINE)
_FUNCTIONS = {"loss", "collator", "command"}  # roles of plain functions
_TABLE = '\n[project.entry-points."noether.tables"]\nMODULE = "noether_plugin_MODULE.plugin:CLASSTable"\n'
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_KIND = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TEST = '''"""`{name}` keeps the contract of its role."""

from noether.testing import {contract}


{test}'''


def write_package(name: str, role: str, folder: Path) -> Path:
    """Write a package with one plugin into a new folder, and return that.

    Args:
        name: Its kind.
        role: Its role; a table comes with a run plugin that reads it.
        folder: The folder, which is missing or empty.

    Raises:
        UsageError: if the name cannot be a kind or is built in, or the folder has files.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name.replace("-", "_")):
        raise UsageError(
            f"wrong name of a plugin: found {name!r}, expected lower-case letters, digits and single hyphens",
            hint="noether plugins new grad-noise --role callback",
        )
    if role in (PLUGIN.name, TABLE.name) and not can_be_table(name.replace("-", "_")):
        raise UsageError(f"a spec cannot have a table of the run plugin {name!r}", hint="choose another name")
    if any(entry.is_built_in and entry.role == role and entry.normal_name == name for entry in installed_entries()):
        raise UsageError(f"the {role} {name!r} is built in", hint="choose another name: specs would find the other one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists already", hint="choose another place with --folder")
    for path, text in package(name, role).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def package(name: str, role: str) -> Mapping[str, str]:
    """Return the files of a package with one plugin, by path.

    Args:
        name: Its kind, in lower case with hyphens.
        role: Its role.
    """
    role = PLUGIN.name if role == TABLE.name else role
    code, test, use = _PARTS.split(_template(f"{role}.txt"))
    module, short = name.replace("-", "_"), name
    if f"CLASS{role.capitalize()}(" in code:
        short = name.removesuffix(f"-{role}")  # MyTrainer, not MyTrainerTrainer
    camel = "".join(part.capitalize() for part in short.split("-"))
    group = next(group for group, known in GROUPS.items() if known.name == role)
    attribute = module if role in _FUNCTIONS else "" if role == PLUGIN.name else _class_in(code)
    major, minor, *_ = version("noether-train").split(".")
    words = {
        "PURPOSE": code.partition('"""')[2].partition('"""')[0],
        "TARGET": f"noether_plugin_MODULE.{role}" + (f":{attribute}" if attribute else ""),
        "GROUP": group,
        "TABLE_OF_PLUGIN\n": _TABLE if role == PLUGIN.name else "",
        "USE": f"```{'console' if role == COMMAND.name else 'toml'}\n{use}```",
        "VERSION": f"{major}.{minor}",
        "NEXT": f"{major}.{int(minor) + 1}" if major == "0" else f"{int(major) + 1}.0",
        "CLASS": camel,
        "MODULE": module,
        "NAME": name,
    }
    contract = re.search(r"\((\w+)\)", test)
    assert contract is not None
    pytest = "import pytest\n\n" if "pytest." in test else ""
    texts = {
        "pyproject.toml": _template("pyproject.toml.txt"),
        "README.md": _template("README.md.txt"),
        f"src/noether_plugin_{module}/__init__.py": '"""A Noether plugin: PURPOSE"""\n',
        f"src/noether_plugin_{module}/py.typed": "",
        f"src/noether_plugin_{module}/{role}.py": code,
        "tests/test_contract.py": _TEST.format(name=name, contract=contract[1], test=test).replace(
            "from noether.testing", f"{pytest}from noether.testing"
        ),
    }
    return {path: _filled(text, words) for path, text in texts.items()}


def _template(name: str) -> str:
    return files("noether.cli").joinpath("template", name).read_text(encoding="utf-8")


def _class_in(code: str) -> str:
    """Return the name of the last class of a template; empty without one."""
    classes = re.findall(r"^class (\w+)", code, re.MULTILINE)
    return classes[-1] if classes else ""


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def public_names(module: str) -> tuple[str, ...]:
    """Return the names of a module that plugins may import."""
    return tuple(PUBLIC[module].split() or sorted(import_module(module).__all__))


def problems_of(folder: Path) -> list[str]:
    """Return the problems of a package, without importing it.

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
    """Yield imports of names of Noether that are not public, which any version may change."""
    for path in sorted([*(folder / "src").rglob("*.py"), *(folder / "tests").rglob("*.py")]):
        if (tree := _tree(path)) is None:
            yield f"{path}: expected Python, which this is not"
            continue
        for line, found, way in imports_of_others(tree):
            yield f"{path}:{line}: imports {found}, which is not public: {way}"


def imports_of_others(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each import of a name of Noether that is not public, the name, and the way out."""
    for node in ast.walk(tree):
        for module, name in _imported(node):
            if module.partition(".")[0] == "noether" and not _is_public(module, name):
                yield node.lineno, f"{module}.{name}" if name else module, _public_way(name)  # type: ignore[attr-defined]


def _imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the modules that a statement imports, each with the name that it takes from there; empty without one."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from ((node.module, alias.name) for alias in node.names)


def _is_public(module: str, name: str) -> bool:
    if f"{module}.{name}" in PUBLIC:  # a module of a package
        return True
    return module in PUBLIC and (name in ("", "*", "__version__") or name in public_names(module))


def _public_way(name: str) -> str:
    homes = [module for module in PUBLIC if name and name in public_names(module)]
    return f"import it from {homes[0]}" if homes else f"use a name of {_PAGE}, or code of your own"


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
