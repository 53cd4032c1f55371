import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[3]
TOMBI = shutil.which("tombi", path=str(Path(sys.executable).parent)) or shutil.which("tombi")


@pytest.fixture(scope="session")
def schema_file(tmp_path_factory) -> Path:
    """The schema of the installed components, as the command writes it."""
    path = tmp_path_factory.mktemp("schema") / "spec.schema.json"
    subprocess.run([sys.executable, "-m", "noether", "spec", "schema", "-o", path], check=True, cwd=path.parent)
    return path


@pytest.fixture
def lint(schema_file: Path, tmp_path: Path) -> Callable[[str], str]:
    """Lint a spec with tombi and the schema, offline; return tombi's messages."""
    if TOMBI is None:
        pytest.skip("tombi, the TOML linter, is not installed: pip install tombi")

    def lint_text(text: str) -> str:
        file = tmp_path / "linted.toml"
        file.write_text(f"#:schema {schema_file}\n{text}")
        command = [TOMBI, "lint", "--offline", "--no-cache", "--quiet", "--error-on-warnings", file]
        environment = {"HOME": str(tmp_path), "NO_COLOR": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert bool(done.returncode) == bool(done.stderr.strip()), done
        return done.stderr

    return lint_text


@pytest.fixture
def specs() -> Path:
    """The folder of the specs that we ship."""
    return REPOSITORY / "specs"


@pytest.fixture
def wing(workplace: Path) -> Path:
    """A data file: 60 points and angles with the pressure there, and a number for each sample that means nothing."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 3)).astype("float32")
    np.savez(workplace / "wing.npz", points=points, angle=points[:, 0], pressure_target=points.sum(1), id=np.arange(60))
    return workplace / "wing.npz"
