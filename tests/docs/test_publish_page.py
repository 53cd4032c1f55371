"""The page `publish-a-plugin`: its metadata, its CI file and its spec belong to a package that passes."""

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from trove_classifiers import classifiers

import noether
from noether.cli.main import app
from noether.cli.package import problems_of, write_package


@pytest.fixture
def package(page, workplace: Path) -> Path:
    """The package of the page: that of `plugins new`, with the metadata and the spec of the page."""
    how_to = page["publish-a-plugin.md"]
    folder = write_package("weight-norm", "callback", workplace / "weight-norm")
    how_to.write_files(folder)
    written = (folder / "pyproject.toml").read_text()
    own = written[: written.index("[project]")], written[written.index("[tool.hatch") :]
    metadata = next(block.text for block in how_to.blocks("toml") if block.text.startswith("[project]"))
    (folder / "pyproject.toml").write_text(f"{own[0]}{metadata}\n{own[1]}")
    return folder


@pytest.fixture
def workflow(page) -> dict[str, Any]:
    """The jobs of the CI file, by name."""
    (block,) = page["publish-a-plugin.md"].blocks("yaml")
    return yaml.safe_load(block.text)["jobs"]


def commands_of(workflow: dict[str, Any]) -> list[list[str]]:
    steps = [step for job in workflow.values() for step in job["steps"]]
    assert all(step.keys() & {"run", "uses"} for step in steps)
    return [shlex.split(step["run"]) for step in steps if "run" in step]


def test_the_package_of_the_page_passes_the_check(package: Path):
    assert problems_of(package) == []


def test_its_metadata_are_those_that_the_index_takes(package: Path):
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert set(project["classifiers"]) <= classifiers
    assert not [name for name in classifiers if name.endswith(":: Noether")], "then the page should name it"
    assert "noether-plugin" in project["keywords"]


def test_every_command_of_the_ci_file_exists(workflow: dict[str, Any]):
    found = commands_of(workflow)
    ours = [words for words in found if words[0] == "noether"]
    assert {tuple(words[1:3]) for words in ours} >= {("plugins", "check"), ("bench", "specs/smoke.toml")}
    for words in ours:
        command: click.Command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(1)]
        context = command.make_context(command.name, [], resilient_parsing=True)
        command.make_parser(context).parse_args(words[1:])  # refuses unknown options
    assert all(words[:3] == ["python", "-m", "pip"] for words in found if words[0] != "noether")


def test_the_ci_file_tests_the_range_of_the_metadata_with_a_python_that_it_takes(workflow, package: Path):
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    oldest, whole = (Requirement(text) for text in workflow["contracts"]["strategy"]["matrix"]["noether"])
    assert whole == Requirement(project["dependencies"][0])
    assert whole.specifier.contains(noether.__version__)
    (pinned,) = oldest.specifier
    assert (pinned.operator, pinned.version) == ("==", "0.1.0")
    assert whole.specifier.contains(pinned.version)
    (python,) = [step["with"]["python-version"] for step in workflow["contracts"]["steps"] if "with" in step]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(f"{python}.0")


@pytest.mark.slow
def test_the_measurement_of_the_ci_file_runs_with_the_installed_package(package: Path, workflow: dict[str, Any]):
    site = package / "site"
    offline = ["--no-build-isolation", "--no-deps", "--no-index"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    (bench,) = [words for words in commands_of(workflow) if words[:2] == ["noether", "bench"]]
    bench[bench.index("--fail-over") + 1], bench[bench.index("--updates") + 1] = "1000", "20"
    for words in (["pip", "install", "-q", *offline, "--target", str(site), "."], bench):
        command = [sys.executable, "-m", *words]
        ended = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
