"""Tests that the pages name exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
PAGES = [page for page in sorted((REPOSITORY / "docs").rglob("*.md")) if NAMED.search(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_test_that_a_page_names_is_there(page):
    missing = [
        f"{file}::{test}"
        for file, test in NAMED.findall(page.read_text())
        if not (REPOSITORY / file).exists() or f"def {test}(" not in (REPOSITORY / file).read_text()
    ]
    assert missing == []


def test_there_are_such_pages():
    assert "easy-to-get-wrong" in {page.stem for page in PAGES}
