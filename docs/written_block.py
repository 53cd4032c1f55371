"""The part of a page that a command writes, between two comments."""

from __future__ import annotations

import re
from pathlib import Path


def write_block(page: Path, begin: str, end: str, text: str) -> None:
    """Write text between the comments `begin` and `end` of a page, each of which it has once."""
    block = f"{begin}\n\n{text}\n\n{end}"
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    replaced, places = re.subn(pattern, lambda _: block, page.read_text("utf-8"), flags=re.DOTALL)
    assert places == 1, f"{page} has one place for the table"
    page.write_text(replaced, "utf-8")
    print(f"wrote {page}")
