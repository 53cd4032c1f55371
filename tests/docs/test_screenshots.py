"""The pictures of the documentation are those that docs/screenshots.py makes."""

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def shots(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import screenshots

    yield screenshots
    del sys.modules["screenshots"], sys.modules["terminal_pictures"]


def test_each_screenshot_is_made_by_a_shot_and_stands_on_a_page(shots, pages):
    pictures = {path.name for path in (DOCS / "screenshots").iterdir()}
    shown = {name for page in pages for name in re.findall(r"\(\S*screenshots/([\w-]+\.(?:png|svg))\)", page.text)}
    assert pictures == shown
    assert {name for name in pictures if not name.startswith(tuple(shots.SHOTS))} == set()
    assert all(any(name.startswith(shot) for name in pictures) for shot in shots.SHOTS)


def test_an_unknown_shot_is_refused_with_the_names_that_exist(shots, capsys):
    assert shots.main(["nothing"]) == 2
    assert "report" in capsys.readouterr().err
