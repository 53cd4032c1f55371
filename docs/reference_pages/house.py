"""The house: the floors of `noether`, from the layers in pyproject.toml and the docstrings of the packages."""

from __future__ import annotations

import ast
import tomllib
from itertools import pairwise
from pathlib import Path

from reference_pages.markdown import table

ROOT = Path(__file__).parents[2]
BESIDE = "noether.testing"


def section() -> str:
    """Return the picture of the floors, the upper one above those that it may import, and a table of them."""
    floors = layers()
    pairs = [(upper, lower) for uppers, lowers in pairwise(floors) for upper in uppers for lower in lowers]
    arrows = [f"    {_node(upper)} --> {_node(lower)}" for upper, lower in pairs]
    beside = f"    {_node(BESIDE)} -.-> {_node(floors[0][0])}"
    picture = "\n".join(["```mermaid", "flowchart TB", *arrows, beside, "```"])
    names = [name for floor in floors for name in floor]
    return f"{picture}\n\n{table(['floor', 'holds'], [[f'`{name}`', _summary(name)] for name in [*names, BESIDE]])}"


def layers() -> list[list[str]]:
    """Return the modules of each floor, top down."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (floors,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [[name.strip() for name in floor.split("|")] for floor in floors]


def _node(name: str) -> str:
    return name.removeprefix("noether.").replace(".", "_")


def _summary(name: str) -> str:
    """Return the first paragraph of the docstring of a module, without importing it."""
    path = ROOT / name.replace(".", "/")
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
