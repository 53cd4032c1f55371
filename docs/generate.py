"""Write the reference pages that are read off the code, or with `--check` say which of them are stale.

python docs/generate.py            write docs/reference/*.md
python docs/generate.py --check    change nothing; exit 1 where a page is not what it would be
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from reference_pages import callbacks, cli, errors, hooks, kinds, spec

REFERENCE = Path(__file__).parent / "reference"
NOTICE = "<!-- Written by docs/generate.py: change what it reads, not this page. -->"
PAGES: dict[str, Callable[[], str]] = {
    "callbacks.md": callbacks.page,
    "cli.md": cli.page,
    "errors.md": errors.page,
    "hooks.md": hooks.page,
    "kinds.md": kinds.page,
    "spec.md": spec.page,
}


def stale_pages() -> dict[Path, str]:
    """Return the text of every page that is missing or not up to date, by its file."""
    texts = {REFERENCE / name: f"{NOTICE}\n\n{page().strip()}\n" for name, page in PAGES.items()}
    return {path: text for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text}


def main(arguments: list[str]) -> int:
    """Bring the pages up to date, or check them; return the exit code."""
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
