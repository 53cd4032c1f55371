"""The contracts of import-linter cover every module; `lint-imports` checks the imports themselves."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_contracts_cover_every_module() -> None:
    contracts = (ROOT / "pyproject.toml").read_text()
    packages = (ROOT / "noether").glob("*/__init__.py")
    modules = {path.parent.name for path in packages} | {path.stem for path in (ROOT / "noether").glob("[!_]*.py")}
    assert [name for name in sorted(modules) if f"noether.{name}" not in contracts] == []
