"""The page `extend-noether` has every role, with classes that exist, and the code that `plugins new` writes."""

import re
from importlib import import_module

import pytest

import noether.testing
from noether.cli.package import package
from noether.kernel.entries import GROUPS

_MADE_BY = re.compile(r"noether plugins new (\S+) --role (\S+)")


@pytest.fixture
def rows(page) -> dict[str, list[str]]:
    """The cells of the table of roles, by role."""
    lines = [line for line in page["extend-noether.md"].text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {role.strip("`"): rest for role, *rest in cells}


def test_every_role_has_a_row_with_its_group_and_contract(rows: dict[str, list[str]]):
    assert {role.name: f"`{group}`" for group, role in GROUPS.items()} == {role: row[0] for role, row in rows.items()}
    for role, (*_, contract, page) in rows.items():
        tested = "plugin" if role == "table" else role  # a run plugin brings its tables
        assert getattr(getattr(noether.testing, contract.strip("`")), "role", role) == tested
        assert page


def test_every_class_in_the_table_exists(rows: dict[str, list[str]]):
    named = [
        path
        for row in rows.values()
        for cell in row[1:3]
        for path in re.findall(r"`((?:noether|torch)\.[\w.]+)`", cell)
    ]
    assert len(named) > 15
    for path in named:
        module, _, name = path.rpartition(".")
        assert isinstance(getattr(import_module(module), name), type), path


def test_the_code_of_a_role_is_that_of_the_package_whose_contract_passes(page):
    blocks = [block for block in page["extend-noether.md"].blocks("python") if _MADE_BY.match(block.mark)]
    assert len(blocks) == 5
    for block in blocks:
        name, role = _MADE_BY.match(block.mark).groups()
        assert block.text in package(name, role).values(), f"{block.place}: see `{block.mark}`"
