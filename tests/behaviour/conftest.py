"""A project with code of its own beside the spec."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
