"""The plugin tutorial from an empty folder: files and commands as printed, step by step."""

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "noether-plugin-gradient-noise"
REPEATED = ("python -m pytest", "noether plugins check", "noether verify-resume")
"""Commands that test the package; its tests run without the tutorial too, with those of the other packages."""
GENERATED = {"__pycache__", ".pytest_cache", "runs", "mlruns", ".git"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment of its own that has all packages of this one; pip installs into it without a network."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "shared.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in shared))
    command = tmp_path / "venv/bin/noether"
    command.write_text('#!/bin/sh\nexec python -m noether "$@"\n')
    command.chmod(0o755)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {**os.environ, **offline, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of one quiet core for all of its commands
@pytest.mark.parametrize("left_out", [REPEATED, pytest.param((), marks=pytest.mark.long)], ids=["quick", "all"])
def test_the_tutorial_goes_from_an_empty_folder_to_the_package_of_the_repository(
    page, workplace: Path, repository: Path, environment: dict[str, str], left_out: tuple[str, ...]
):
    seen: dict[str, str] = {}
    for heading, output in follow(page["your-first-plugin.md"], workplace, environment, left_out):
        seen[heading[:2]] = seen.get(heading[:2], "") + output
    metrics = [path.read_text() for path in workplace.rglob("metrics.jsonl")]
    assert any("gradient/norm" in text for text in metrics)
    assert "factor" in seen["2."] and "Weight of the past" in seen["2."]
    assert f"{PACKAGE} 0.1.0" in seen["3."]
    assert any("gradient/noise_scale" in text for text in metrics)
    if not left_out:
        assert "passed" in seen["5."]
        assert "ready to publish" in seen["6."]
    assert files_of(workplace / PACKAGE) == files_of(repository / "plugins" / PACKAGE), (
        f"plugins/{PACKAGE} is the result of the tutorial: change it there, and copy what it builds"
    )


def follow(page, folder: Path, environment: dict[str, str], left_out: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Write each file and run each command of a page in their order; yield heading and output of the commands.

    Commands that begin with one of `left_out` are not run.
    """
    working = folder
    for block in page.all_blocks():
        if block.file:
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "console":
            heading = page.text[: page.text.index(block.text)].rpartition("\n## ")[2]
            for line in block.text.splitlines():
                command = line.removeprefix("$ ")
                if command.startswith("cd "):
                    working /= command.removeprefix("cd ")
                elif not command.startswith(left_out):
                    yield heading, run(command, working, environment)


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def files_of(package: Path) -> dict[str, str]:
    """Return the files of a package by their paths, without what tools leave in it."""
    paths = [path for path in package.rglob("*") if path.is_file()]
    relative = {path: path.relative_to(package) for path in paths}
    kept = {path: name for path, name in relative.items() if not GENERATED.intersection(name.parts)}
    return {str(name): path.read_text() for path, name in kept.items()}
