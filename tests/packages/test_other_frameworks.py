"""The scripts of other frameworks in the documentation run as printed, and learn as well as the spec beside them."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import noether

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "come-from-another-framework.md"
FILES = {found[1]: found[0] for found in re.findall(r"^```\w+\n(# (\S+)\n.*?)^```$", PAGE.read_text(), re.M | re.S)}
PACKAGES = {
    "lightning_digits.py": "lightning",
    "hugging_face_digits.py": "transformers",
    "hydra_digits.py": "hydra",
    "keras_digits.py": "keras",
}


@pytest.fixture
def files(workplace: Path) -> Path:
    for name, text in FILES.items():
        (workplace / name).parent.mkdir(exist_ok=True)
        (workplace / name).write_text(text)
    return workplace


@pytest.mark.packages
@pytest.mark.parametrize(("script", "package"), PACKAGES.items())
def test_a_script_of_the_page_runs_and_learns(script: str, package: str, files: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install --no-deps -r tests/packages/requirements.txt")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, script], cwd=files, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert float(re.findall(r"0\.\d+", ended.stdout.strip().splitlines()[-1])[-1]) > 0.92


def test_the_spec_of_the_page_learns_as_well(files: Path) -> None:
    outcome = noether.run("digits.toml", set={"trackers": [{"kind": "noop"}]}, quiet=True)
    assert outcome.error is None
    assert outcome.metrics["accuracy/test/label"] > 0.93
