"""Tables on a terminal and in a pipe: aligned, never wrapped or cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with the same keys, the keys as a header."""
    if not rows:
        print("nothing found")
        return
    lines = [[key.upper() for key in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
