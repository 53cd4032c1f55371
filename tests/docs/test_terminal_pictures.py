"""The pictures of the terminal: what stands on a screen, and how it is drawn."""

import re
from importlib import import_module

import pytest


@pytest.fixture
def pictures(repository, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(repository / "docs")
    return import_module("terminal_pictures")


def test_a_screen_holds_what_was_drawn_last(pictures):
    written = (
        "run\r\n\x1b[?25lbar 1\r\x1b[2Kbar 2\r\n  results\r\x1b[2K\x1b[1A\x1b[2Kbar 3\r\n  \x1b[36mbetter\x1b[0m\r\nend"
    )
    assert pictures.screen(written) == ["run", "bar 3", "  \x1b[36mbetter\x1b[0m", "end"]


def test_a_picture_needs_no_network_and_cuts_long_lines(pictures):
    svg = pictures.drawn(["\x1b[1mbold\x1b[0m", "x" * 300], 20)
    assert "bold" in svg
    assert "x" * 21 not in svg
    assert re.findall(r"https?://[^\"]*", svg) == ["http://www.w3.org/2000/svg"]
