"""Links lead somewhere."""

import re
from pathlib import Path

import pytest

_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def test_every_relative_link_resolves(pages):
    broken = []
    for page in pages:
        for link in _LINK.findall(page.prose):
            target, _, anchor = link.partition("#")
            path = (page.path.parent / target) if target else page.path
            if "://" in link:
                continue
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append((page.path.name, link))
    assert broken == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_map(repository: Path):
    docs = repository / "docs"
    for contents in (docs / "index.md", docs / "reference/api/index.md"):
        folder, text = contents.parent, contents.read_text("utf-8")
        paths = {path for path in folder.glob("*/*.md" if folder == docs else "*.md") if path != contents}
        names = {path.relative_to(folder).with_suffix("").as_posix() for path in paths}
        assert len(names) > 9
        assert {name for name in names if f"({name}.md)" not in text} == set()
        assert {name for name in names if f"\n{name}\n" not in text} == set()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("csv", "how-to/use-csv-files"),
        ("deploy", "how-to/predict"),
        ("early stopping", "how-to/stop-early"),
        ("plot", "how-to/log-a-figure-or-a-table"),
        ("plot", "how-to/read-a-report"),
        ("resume", "how-to/resume-a-run"),
        ("sweep", "how-to/sweep"),
        ("windows", "reference/supported"),
    ],
)
def test_the_search_of_the_site_finds_a_page_by_the_words_of_a_heading(words: str, name: str, repository: Path):
    """It ranks pages with all words in a heading first, in any case and any form of a word."""
    text = (repository / "docs" / f"{name}.md").read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.MULTILINE)
    found = [re.findall(r"\w+", heading.lower()) for heading in headings]
    assert any(all(any(one.startswith(word) for one in each) for word in words.split()) for each in found), headings
