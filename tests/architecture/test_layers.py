"""Dependencies point down: the contracts in pyproject.toml, annotation-only imports included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_layer_imports_lower_ones_only() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [linter, "--config", ROOT / "pyproject.toml", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_contracts_cover_every_module() -> None:
    contracts = (ROOT / "pyproject.toml").read_text()
    packages = (ROOT / "noether").glob("*/__init__.py")
    modules = {path.parent.name for path in packages} | {path.stem for path in (ROOT / "noether").glob("[!_]*.py")}
    assert [name for name in sorted(modules) if f"noether.{name}" not in contracts] == []
