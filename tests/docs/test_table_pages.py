"""The tutorial from a csv file to predictions, with its commands as they are printed."""

import csv
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from noether.cli.main import main

pytestmark = pytest.mark.usefixtures("project")


def commands_of(page: Any) -> list[list[str]]:
    """Return the arguments of each `noether` command of a page."""
    lines = re.findall(r"^\$ noether (.+)$", "\n".join(block.text for block in page.blocks("console")), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def made_by(page: Any) -> None:
    (script,) = [block.text for block in page.blocks("python") if block.mark.startswith("run: ")]
    exec(script, {})


def noether_ends_well(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["noether", *arguments])
        main()
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    return printed.out


def follow(page: Any, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """Run the commands of the tutorial, the run with further options; return what they print."""
    made_by(page)
    init, run, predict = commands_of(page)
    return [noether_ends_well(each, capsys) for each in (init, [*run, *options], predict)]


def errors_in_mm() -> list[float]:
    stiffness = {"aluminium": 70e9, "steel": 210e9, "titanium": 110e9}
    with open("new.csv", newline="") as new, open("predictions.csv", newline="") as predicted:  # noqa: PTH123
        rows = list(zip(csv.DictReader(new), csv.DictReader(predicted), strict=True))
    return [
        float(found["deflection_mm"])
        - 1_000 * float(row["load [N]"]) * float(row["length [m]"]) ** 3 / (3 * stiffness[row["material"]] * 1e-6)
        for row, found in rows
    ]


def test_the_tutorial_prints_what_it_shows(page, capsys):
    tutorial = page["from-csv-to-predictions.md"]
    printed = follow(tutorial, capsys, "-q", "-s", 'trackers=["noop"]', "-s", "trainer.max_epochs=2", "-s", "threads=1")
    shown_table, shown_prediction = [block.text for block in tutorial.blocks("text")]
    assert printed[0] == shown_table
    assert printed[2].endswith(shown_prediction)
    assert len(errors_in_mm()) == 4
    assert {part["split"] for part in tomllib.loads(Path("beams.toml").read_text())["datasets"].values()} == {
        "train", "validation", "test"
    }  # fmt: skip


@pytest.mark.long
def test_the_tutorial_as_it_is_printed_predicts_to_two_millimetres(page, capsys):
    follow(page["from-csv-to-predictions.md"], capsys)
    assert max(map(abs, errors_in_mm())) < 2
