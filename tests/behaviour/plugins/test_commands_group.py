"""Subcommands and kinds of plugins that are installed with pip, as the registry finds them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

IMPORTED = "greetings was imported"
MODULE = f"""
import sys
import noether

print({IMPORTED!r}, file=sys.stderr)

def greet() -> None:
    print("hello")

number = 4

@noether.hookimpl
def run_started(run): ...
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "noether-plugin-{name}"
version = "0.3"
[tool.setuptools]
py-modules = ["{name}"]
[project.entry-points."noether.commands"]
{commands}
"""
LOOK = """
import json, sys
from noether.errors import PluginError
from noether.kernel.entries import installed_commands
from noether.kernel.registry import Registry
registry = Registry.installed()
commands = [[entry.name, entry.origin] for entry in installed_commands()]
found = {"commands": commands, "imported": "greetings" in sys.modules}
for name in sys.argv[1:]:
    try:
        found[name] = registry.command(name).__name__
    except PluginError as error:
        found[name] = [error.message, error.hint]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two installed plugins, which both have a command `hi`."""
    site = tmp_path_factory.mktemp("site")
    packages = []
    commands = {
        "greetings": 'greet = "greetings:greet"\nhi = "greetings:greet"\nrun = "greetings:greet"\n'
        'number = "greetings:number"\nmissing = "greetings:missing"',
        "others": 'hi = "others:hi"\nbroken = "others:hi"',
    }
    modules = {"greetings": MODULE, "others": "import nowhere_to_be_found\n"}
    for name, listed in commands.items():
        package = tmp_path_factory.mktemp(name)
        (package / "pyproject.toml").write_text(PROJECT.format(name=name, commands=listed))
        (package / f"{name}.py").write_text(modules[name])
        packages.append(str(package))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(site), *packages], check=True, capture_output=True)
    return site


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def look(site: Path, *names: str) -> dict[str, Any]:
    looked = python(site, "-c", LOOK, *names)
    assert looked.returncode == 0, looked.stderr
    found: dict[str, Any] = json.loads(looked.stdout)
    return found


@pytest.mark.slow
def test_commands_are_listed_with_their_origin_and_not_imported(site: Path) -> None:
    found = look(site)
    assert ["greet", "noether-plugin-greetings 0.3"] in found["commands"]
    assert [origin for name, origin in found["commands"] if name == "hi"] == [
        "noether-plugin-greetings 0.3",
        "noether-plugin-others 0.3",
    ]
    assert not found["imported"]


@pytest.mark.slow
def test_a_command_is_imported_by_its_name_or_its_qualified_name(site: Path) -> None:
    found = look(site, "greet", "greetings/hi", "greetings/run")
    assert (found["greet"], found["greetings/hi"], found["greetings/run"]) == ("greet", "greet", "greet")


@pytest.mark.slow
def test_a_command_that_cannot_be_used_is_refused_with_its_origin_and_a_way_out(site: Path) -> None:
    found = look(site, "gret", "hi", "number", "missing", "broken")
    assert found["gret"][0] == "unknown command 'gret'. Did you mean 'greet'?"
    message, hint = found["hi"]
    assert "noether-plugin-greetings 0.3" in message
    assert "noether-plugin-others 0.3" in message
    assert hint == "write noether greetings/hi or noether others/hi"
    assert "a command is a function" in found["number"][0]
    assert "has no attribute 'missing'" in found["missing"][0]
    assert "the package that has the module 'nowhere_to_be_found'" in found["broken"][1]


@pytest.mark.slow
def test_info_takes_a_dotted_path_in_both_spellings(site: Path, workplace: Path) -> None:
    Path("mine.py").write_text(
        "from noether.core.callbacks import PeriodicCallback\nclass Mine(PeriodicCallback): ...\n"
    )
    for kind in ("mine:Mine", "mine.Mine"):
        shown = python(site, "-m", "noether", "plugins", "info", kind)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith(f"callback '{kind}' from project code: mine.Mine")
    shown = python(site, "-m", "noether", "plugins", "info", "noether.core.callbacks:CheckpointCallback")
    assert shown.stdout.startswith("callback 'checkpoint' from noether-train")


@pytest.mark.slow
def test_info_refuses_a_dotted_path_that_fits_no_role(site: Path, workplace: Path) -> None:
    Path("mine.py").write_text("class Mine: ...\n")
    for kind, code in {
        "mine:Mine": "wrong-role",
        "mine:Nothing": "unknown-kind",
        "os:system": "not-trusted",
        "mine:": "unknown-kind",
        "nowhere": "unknown-kind",
    }.items():
        refused = python(site, "-m", "noether", "plugins", "info", kind)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error[{code}]: "), refused.stderr
        assert f"'{kind}'" in refused.stderr
