"""Numbers as people read them."""

from __future__ import annotations


def size_in_words(number: int) -> str:
    """Return a number of bytes: `412 B`, `1.6 MiB`."""
    value, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{number} B" if unit == "B" else f"{value:.1f} {unit}"
