"""The page of documented behaviour and the tests of its sentences are in step."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = "tests/behaviour/documented"
PAGE = (REPOSITORY / "docs/reference/documented-behaviour.md").read_text()
ROW = re.compile(r"^\| .+ \| (.+) \| `(test_\w+)` \|$", re.MULTILINE)


def test_the_page_lists_each_test_of_a_documented_sentence_once_below_its_file():
    listed = {}
    for section in PAGE.split("\n## ")[1:]:
        (file,) = re.findall(rf"In `{FOLDER}/(test_\w+\.py)`", section)
        listed[file] = [test for _, test in ROW.findall(section)]
    written = {
        path.name: [
            node.name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        for path in (REPOSITORY / FOLDER).glob("test_*.py")
    }
    assert {file: sorted(tests) for file, tests in listed.items()} == {f: sorted(tests) for f, tests in written.items()}


def test_each_sentence_is_as_documented_or_deliberately_better():
    rows = ROW.findall(PAGE)
    assert [here for here, _ in rows if not here.startswith(("as documented", "deliberately better: "))] == []
    assert len(rows) == sum(line.startswith("| ") for line in PAGE.splitlines()) - 2 * PAGE.count("\n## ")
