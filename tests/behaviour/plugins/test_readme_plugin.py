"""The plugin of the README, made of its own code blocks and installed with pip."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

README = Path(__file__).parents[3] / "README.md"
IMPORTED = "weightnorm was imported"


def block(language: str, first_line: str) -> str:
    """Return the README's code block that begins with this line."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return next(found for found in blocks if found.startswith(first_line))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds nothing but the plugin."""
    package = tmp_path_factory.mktemp("noether-plugin-weightnorm")
    (package / "pyproject.toml").write_text(block("toml", "# pyproject.toml"))
    module = block("python", "# weightnorm.py")
    (package / "weightnorm.py").write_text(f"import sys\nprint({IMPORTED!r}, file=sys.stderr)\n{module}")
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*install, str(site), str(package)], check=True, capture_output=True)
    return site


def noether(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "noether", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.slow
def test_installed_plugin_is_listed_without_being_imported(site: Path) -> None:
    listed = noether(site, "plugins", "list", "--role", "callback", "--json")
    rows = {row["kind"]: row for row in json.loads(listed.stdout)}
    assert rows["weight-norm"]["origin"] == "noether-plugin-weightnorm 0.1"
    assert IMPORTED not in listed.stderr


@pytest.mark.slow
def test_plugin_runs_when_a_spec_names_it_and_is_not_imported_otherwise(site: Path, tiny_spec: dict[str, Any]) -> None:
    Path("without.toml").write_text(tomli_w.dumps(tiny_spec))
    tiny_spec["trainer"]["callbacks"] = [{"kind": "weight-norm", "every_n_epochs": 1}]
    Path("with.toml").write_text(tomli_w.dumps(tiny_spec))

    plain = noether(site, "run", "without.toml", "--run-id", "plain")
    assert IMPORTED not in plain.stderr
    used = noether(site, "run", "with.toml", "--run-id", "used")
    assert IMPORTED in used.stderr
    assert '"weights/norm"' in Path("runs/used/metrics.jsonl").read_text()
    weights = [Path(f"runs/{run}").glob("checkpoints/*/model.safetensors") for run in ("plain", "used")]
    first, second = (next(paths).read_bytes() for paths in weights)
    assert first == second, "a callback that only looks changed the training"
