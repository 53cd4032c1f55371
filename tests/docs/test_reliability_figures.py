"""The table of reliability asks for what the tests publish."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ASKED = re.compile(r"""report\.(?:total|joined)\(["']([^"']+)["']""")
PUBLISHED = re.compile(r"""figures\(\s*"([^"]+)\"""")


def test_every_number_that_the_table_asks_for_is_published_by_a_test():
    asked = set(ASKED.findall((REPOSITORY / "docs" / "reliability_figures.py").read_text()))
    published = {
        name for file in (REPOSITORY / "tests").rglob("test_*.py") for name in PUBLISHED.findall(file.read_text())
    }
    assert asked <= published
    assert "kills" in asked
