"""`noether plugins new` and `check`: a package of each role passes its own tests as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from noether.cli.package import package, problems_of, write_package
from noether.errors import UsageError
from noether.kernel.entries import GROUPS, TABLE

PLUGINS = Path(__file__).parents[3] / "plugins"
ROLES = [role.name for role in GROUPS.values() if role is not TABLE]  # a table comes with a run plugin


def written(folder: Path, role: str, name: str = "demo") -> Path:
    return write_package(name, role, folder / f"noether-plugin-{name}")


QUICK = "TestMyCallback or names_an_object or unknown_option or two_epochs or is_listed"
"""All tests of one role, and of each other role those that find a template which does not fit the framework."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tests", [QUICK, pytest.param("", marks=pytest.mark.long)], ids=["quick", "all"])
def test_a_new_package_of_each_role_passes_its_own_tests(tmp_path: Path, tests: str):
    folders = [written(tmp_path, role, f"my-{role}") for role in ROLES]
    library = tmp_path / "library"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(library)]
    subprocess.run([*pip, *map(str, folders)], check=True, capture_output=True, timeout=100)
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "-k", tests]
    environment = {**os.environ, "PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"}
    places = [str(folder / "tests") for folder in folders]
    ended = subprocess.run(
        [*command, *places], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", ended.stdout)[1])
    assert passed > (2 * len(ROLES) if tests else 10 * len(ROLES) - 20)


@pytest.mark.parametrize("role", ROLES)
def test_a_new_package_is_ready_to_publish(tmp_path: Path, role: str):
    assert problems_of(written(tmp_path, role)) == []


@pytest.mark.parametrize("role", ROLES)
def test_a_new_package_is_formatted_and_has_no_unused_line(tmp_path: Path, role: str):
    folder = written(tmp_path, role)
    for command in (["check", "--select=E,F,I,UP,B,D1", "--ignore=D107"], ["format", "--check"]):
        options = ["--isolated", "--line-length=120", str(folder / "src")]
        ended = subprocess.run(["ruff", *command, *options], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout


def test_a_table_comes_with_a_run_plugin_that_reads_it(tmp_path: Path):
    assert package("demo", "table") == package("demo", "plugin")
    metadata = tomllib.loads(package("demo", "table")["pyproject.toml"])
    assert metadata["project"]["entry-points"]["noether.tables"] == {"demo": "noether_plugin_demo.plugin:DemoTable"}
    with pytest.raises(UsageError):
        written(tmp_path, "plugin", "trainer")


@pytest.mark.parametrize("role", ["callback", "trainer", "optimizer"])
def test_a_class_has_its_role_in_its_name_once(role: str):
    target = tomllib.loads(package(f"my-{role}", role)["pyproject.toml"])["project"]["entry-points"]
    assert target[f"noether.{role}s"] == {f"my-{role}": f"noether_plugin_my_{role}.{role}:My{role.capitalize()}"}


def test_no_template_word_is_left_in_a_package():
    for role in ROLES:
        text = "\n".join(package("grad-noise", role).values())
        assert not re.search(r"\b(NAME|CLASS|MODULE|PURPOSE|TARGET|GROUP|USE|VERSION|NEXT)\b", text), role


@pytest.mark.parametrize("name", ["Demo", "my_demo", "1st", "a--b", "", "../x", "class"])
def test_a_name_that_cannot_be_a_kind_is_refused(tmp_path: Path, name: str):
    with pytest.raises(UsageError):
        write_package(name, "callback", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_left_alone(tmp_path: Path):
    written(tmp_path, "callback")
    with pytest.raises(UsageError):
        written(tmp_path, "model")


def changed(folder: Path, file: str, old: str, new: str) -> list[str]:
    """Return the problems of a new package after a change of one file."""
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return problems_of(folder)


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("pyproject.toml", 'name = "noether-plugin-demo"', 'name = "demo"', "noether-plugin-"),
        ("pyproject.toml", ",<0.2", "", "upper bound"),
        ("pyproject.toml", ">=0.1,<0.2", ">=7,<8", "does not take the installed"),
        ("pyproject.toml", '"noether-train>=0.1,<0.2"', "", "missing dependency"),
        ("pyproject.toml", "noether.callbacks", "noether.callback", "noether.callbacks"),
        ("pyproject.toml", "noether.callbacks", "other.callbacks", "no plugin"),
        ("pyproject.toml", "demo = ", "ema = ", "built in"),
        ("pyproject.toml", "demo.callback:", "demo.callbacks:", "names no module"),
        (
            "src/noether_plugin_demo/callback.py",
            "import Field",
            "import Field\nfrom noether.config.base import _x",
            "_x",
        ),
        ("src/noether_plugin_demo/callback.py", "class Demo", "clas Demo", "callback.py"),
        ("tests/test_contract.py", "Contract", "Base", "no contract"),
    ],
)
def test_what_keeps_a_package_from_being_published_is_named(tmp_path: Path, file: str, old: str, new: str, named: str):
    problems = changed(written(tmp_path, "callback"), file, old, new)
    assert any(named in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("line", "name", "way"),
    [
        ("from noether.kernel.names import did_you_mean", "noether.kernel.names.did_you_mean", "code of your own"),
        ("from noether.data.dataset import Batch", "noether.data.dataset.Batch", "public-names.md"),
        ("from noether.core.callbacks.tree import CallbackBase", "tree.CallbackBase", "from noether.core.callbacks"),
        ("import noether.kernel.registry as registry", "noether.kernel.registry", "public-names.md"),
        ("from noether.core import protocols", "noether.core.protocols", "public-names.md"),
    ],
)
def test_an_import_that_is_not_public_is_named_with_its_line_and_the_way_out(tmp_path: Path, line, name, way):
    folder = written(tmp_path, "callback")
    place = folder / "tests" / "test_more.py"
    place.write_text(f"import noether\nfrom noether.core import callbacks\n\n\ndef late():\n    {line}\n")
    (problem,) = problems_of(folder)
    assert problem.startswith(f"{place}:6: ") and name in problem and way in problem


@pytest.mark.parametrize("package", sorted(PLUGINS.glob("*/")), ids=lambda folder: folder.name)
def test_a_package_of_this_repository_has_no_problem(package: Path):
    assert problems_of(package) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('dependencies = ["noether-train>=0.1,<0.2"]', "dependencies = 3"),
        ('[project.entry-points."noether.callbacks"]\ndemo = "noether_plugin_demo.callback:DemoCallback"', ""),
        ('[project.entry-points."noether.callbacks"]', "[project.entry-points]"),
    ],
)
def test_metadata_of_another_form_are_problems_and_no_traceback(tmp_path: Path, old: str, new: str):
    assert changed(written(tmp_path, "callback"), "pyproject.toml", old, new)


def test_a_kind_that_only_a_comment_names_has_no_contract(tmp_path: Path):
    problems = changed(
        written(tmp_path, "callback"), "tests/test_contract.py", '"kind": "demo"', '"kind": "d"  # "demo"\n'
    )
    assert any("no contract" in problem for problem in problems), problems


def test_a_name_that_is_built_in_is_refused(tmp_path: Path):
    with pytest.raises(UsageError):
        write_package("mse", "loss", tmp_path / "new")


def test_a_folder_without_a_package_is_refused(tmp_path: Path):
    with pytest.raises(UsageError):
        problems_of(tmp_path)
