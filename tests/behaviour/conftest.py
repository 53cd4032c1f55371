"""The command `noether`, and a project with code of its own beside the spec."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noether.checkpoint.paths import checkpoint_folders, read_checkpoint
from noether.cli.main import main
from noether.runs.outcome import Outcome
from noether.training.compiled_step import CompiledStep

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


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled updates are traced and guarded as always, and run without Inductor, which takes seconds for each."""
    again = CompiledStep._backend

    def backend(self: CompiledStep, graph: Any, inputs: Any) -> Any:
        if self._is_made:
            return again(self, graph, inputs)
        self._is_made = True
        return graph.forward

    monkeypatch.setattr(CompiledStep, "_backend", backend)


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


@pytest.fixture
def attempt() -> Callable[..., dict[str, Any]]:
    """Read the record of an attempt at a run, by default the first."""

    def read(run: Outcome | Path, number: int = 1) -> dict[str, Any]:
        folder = run.run_dir if isinstance(run, Outcome) else run
        record: dict[str, Any] = json.loads((folder / f"attempts/{number:04d}.json").read_text())
        return record

    return read


@pytest.fixture
def verified_updates() -> Callable[[Path], list[int]]:
    """Reads every checkpoint of a run, each byte checked, and returns their updates."""

    def read(run_dir: Path) -> list[int]:
        return [read_checkpoint(step)[0].update for step in checkpoint_folders(run_dir / "checkpoints")]

    return read
