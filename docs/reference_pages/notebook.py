"""The notebook of the tutorials as a page."""

from __future__ import annotations

import json
from pathlib import Path


def page(notebook: Path) -> str:
    """Return the cells of a notebook as Markdown, with a link to it below the first heading."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    parts = [_part(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    heading, _, rest = parts[0].partition("\n\n")
    link = f"This page is the notebook {{download}}`{notebook.name}`: open it in Jupyter, and run it cell by cell."
    return "\n\n".join([heading, link, rest, *parts[1:]])


def _part(kind: str, source: str) -> str:
    return source if kind == "markdown" else f"```python\n{source}\n```"
