"""Links lead somewhere."""

import re
from pathlib import Path

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


def test_every_page_is_in_the_map(page, repository: Path):
    docs = repository / "docs"
    names = {path.relative_to(docs).with_suffix("").as_posix() for path in docs.glob("*/*.md")}
    assert {name for name in names if f"({name}.md)" not in page["index.md"].text} == set()
    assert {name for name in names if f"\n{name}\n" not in page["index.md"].text} == set()
