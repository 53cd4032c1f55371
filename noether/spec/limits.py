"""What a spec may be at most, checked before a parser sees it: a hostile file must be an error at once."""

from __future__ import annotations

import re
from typing import Any

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ITEMS = 10_000
MAX_FILES = 32
MAX_PROBLEMS = 100
"""Of more problems than that the rest is counted and not looked at."""

# Strings and comments are tokens of their own so that nothing inside them counts. An unterminated multi-line
# string runs to the end of the text, which keeps the scan linear; possessive quantifiers keep it from going
# back.
_TOKEN = re.compile(
    r'"""(?:[^"\\]++|\\.|"{1,2}(?!"))*+(?:"""|\Z)?'
    r"|'''(?:[^']++|'{1,2}(?!'))*+(?:'''|\Z)?"
    r'|"(?:[^"\\\n]++|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+"
    r"|\n\s*+"
    r"|[\[\]{}.=,]",
    re.DOTALL,
)


def excess(text: str) -> tuple[str, int] | None:
    """Return what in a TOML text goes beyond the limits and at which offset, or None.

    One pass over the tokens, without parsing: `tomllib` needs seconds for a dotted key of thousands of parts,
    and runs out of stack on deep nesting.
    """
    depth = parts = items = 0
    for token in _TOKEN.finditer(text):
        mark = token.group()
        items += mark in "[{.=,"
        if items > MAX_ITEMS:
            return f"there are more than {MAX_ITEMS} keys and values", token.start()
        if mark == ".":
            parts += 1
            if parts >= MAX_DEPTH:
                return f"a dotted key has more than {MAX_DEPTH} parts", token.start()
        elif mark in "[{":
            depth, parts = depth + 1, 0
            if depth > MAX_DEPTH:
                return f"values are nested more than {MAX_DEPTH} deep", token.start()
        elif mark in "]}":
            depth, parts = max(depth - 1, 0), 0
        elif mark[0] in "=,\n":
            parts = 0
    return None


def depth_of(document: Any, limit: int = MAX_DEPTH) -> int:
    """Return how deep tables and lists are nested, counting no further than one beyond `limit`."""
    level, depth = [document], 0
    while level and depth <= limit:
        containers = [value for value in level if isinstance(value, (dict, list, tuple))]
        level = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
        depth += bool(containers)
        if not containers:
            break
    return depth
