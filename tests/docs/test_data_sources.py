"""The page `data-sources` names source and licence of the data of every spec in the repository."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

_OF_A_USER = {"file", "disk", "images"}


def kinds_in_specs(repository: Path) -> Iterator[tuple[Path, str]]:
    """Yield the kinds of data sets in the specs of the repository and of its plugins, with their files."""
    for path in [*repository.glob("specs/**/*.toml"), *repository.glob("plugins/*/specs/**/*.toml")]:
        for table in tomllib.loads(path.read_text()).get("datasets", {}).values():
            if isinstance(table, dict) and "kind" in table:
                yield path.relative_to(repository), table["kind"]


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells of the table, by the kind in the first."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:3] == "| `"]
    return {re.sub(r"[| `]", "", kind): rest for kind, *rest in rows}


def test_every_kind_of_a_spec_has_a_row_with_source_and_licence(page, repository: Path):
    rows = rows_of(page["data-sources.md"].text)
    found = {(path, kind) for path, kind in kinds_in_specs(repository) if kind not in _OF_A_USER}
    assert {"digits", "terrain"} <= {kind for _, kind in found}
    assert [(path, kind) for path, kind in found if kind not in rows] == []
    assert all(len(row) == 4 and all(row) for row in rows.values())
