"""The pictures name existing things: every hook, and the floors of the house."""

import re
from importlib.util import find_spec

import pytest

from noether.kernel.hookspecs import HOOKS

_ROUND = re.compile(r"\b(\w+)\(\1\)")
"""A round box whose text is its id: a hook."""


def pictures(page) -> str:
    return "\n".join(block.text for block in page.blocks("mermaid"))


def test_the_pictures_of_a_run_and_of_an_update_show_every_hook(page):
    assert set(_ROUND.findall(pictures(page["training-loop.md"]))) == HOOKS.keys()


def test_the_picture_of_the_house_shows_every_package(page, repository):
    arrows = re.findall(r"(\w+) (?:-->|-\.->) (\w+)", pictures(page["architecture.md"]))
    packages = {path.parent.name for path in (repository / "noether").glob("*/__init__.py")}
    assert {name.partition("_")[0] for arrow in arrows for name in arrow} == packages | {"errors"}


def test_every_module_that_the_architecture_names_is_there(page):
    named = set(re.findall(r"`(noether(?:\.[a-z_]+)+)`", page["architecture.md"].text))
    assert len(named) > 10
    assert [name for name in sorted(named) if not is_module(name)] == []


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that should hold it
        return False


def test_every_picture_can_be_drawn(pages):
    mmdr = pytest.importorskip("mmdr", reason="pictures need mmdr: pip install mmdr")
    blocks = [block for page in pages for block in page.blocks("mermaid")]
    assert len(blocks) >= 3
    assert [block.place for block in blocks if "<svg" not in mmdr.render(block.text).svg()] == []
