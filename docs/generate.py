"""Write the reference pages and the keys for shell completion, or with `--check` report those that are stale.

python docs/generate.py            write docs/reference/*.md, spec_keys.json of the command, the page of the
                                   notebook, and the house in docs/explanation/architecture.md
python docs/generate.py --check    change nothing; exit 1 if a page is stale
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from reference_pages import api, callbacks, cli, errors, hooks, house, kinds, notebook, public_names, spec

DOCS = Path(__file__).parent
NOTICE = "<!-- Written by docs/generate.py: change what it reads, not this page. -->"
PAGES: dict[str, Callable[[], str]] = {
    "callbacks.md": callbacks.page,
    "cli.md": cli.page,
    "errors.md": errors.page,
    "hooks.md": hooks.page,
    "kinds.md": kinds.page,
    "public-names.md": public_names.page,
    "spec.md": spec.page,
}
ARCHITECTURE = DOCS / "explanation" / "architecture.md"
NOTEBOOK = DOCS / "tutorials" / "notebook.ipynb"
SPEC_KEYS = DOCS.parent / "noether" / "cli" / "spec_keys.json"
HOUSE = re.compile(r"(?<=<!-- house, written by docs/generate\.py -->\n).*(?=<!-- end of the house -->)", re.DOTALL)


def stale_pages() -> dict[Path, str]:
    """Return the text of every page that is missing or stale, by its file."""
    texts = {DOCS / "reference" / name: f"{NOTICE}\n\n{page().strip()}\n" for name, page in PAGES.items()}
    texts |= {DOCS / "reference" / name: f"{NOTICE}\n\n{text}\n" for name, text in api.pages().items()}
    texts[ARCHITECTURE] = HOUSE.sub(lambda _: f"\n{house.section()}\n\n", ARCHITECTURE.read_text("utf-8"))
    texts[NOTEBOOK.with_suffix(".md")] = f"{NOTICE}\n\n{notebook.page(NOTEBOOK)}\n"
    texts[SPEC_KEYS] = spec.keys()
    return {path: text for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text}


def main(arguments: list[str]) -> int:
    """Write the stale pages, or check that there are none; return the exit code."""
    stale = stale_pages()
    if "--check" in arguments:
        for path in stale:
            print(f"{path} is stale; run: python docs/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for path, text in stale.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
