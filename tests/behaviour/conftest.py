"""The command `noether`, and a project with code of its own beside the spec."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from noether.cli.main import main

LAB = Path(__file__).parent / "lab"


@pytest.fixture
def lab(workplace: Path) -> Iterator[Path]:
    """The working folder as the root of a project that holds the package `lab`; specs name it by dotted paths."""
    folder = workplace / "lab"
    shutil.copytree(LAB, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


@dataclass(frozen=True)
class Ended:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def noether_command(workplace: Path, monkeypatch, capsys) -> Callable[..., Ended]:
    """Runs the command `noether` in this process."""

    def command(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["noether", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return command
