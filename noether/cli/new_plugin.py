"""`noether plugins new`: a package with one plugin of a role, which passes its own tests at once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from noether.errors import UsageError
from noether.kernel.entries import COMMAND, GROUPS, PLUGIN, TABLE, installed_entries
from noether.spec.tables import can_be_table

_PARTS = re.compile(r"^=== \w+\n", re.MULTILINE)
_FUNCTIONS = {"loss", "collator", "command"}  # roles of plain functions
_TABLE = '[project.entry-points."noether.tables"]\nMODULE = "noether_plugin_MODULE.plugin:CLASSTable"\n\n'
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
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
        "[tool.hatch": (_TABLE if role == PLUGIN.name else "") + "[tool.hatch",
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
