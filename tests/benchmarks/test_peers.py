"""The table of other frameworks: its rows, and a framework that fails."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
FIGURES = {"us": 200.0, "bare_us": 150.0, "us_above": 50.0, "calls_above": 40.0, "equal": True}


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PEERS)
    return importlib.import_module("measure")


def test_rows_are_in_order_of_the_ratio_and_ours_are_two(measure, monkeypatch):
    def figures(_python: str, file: str, name: str, *_: str) -> dict[str, float]:
        return FIGURES | {"ratio": 1.0 if file == "ours.py" else 1.0 + len(name) / 100}

    monkeypatch.setattr(measure, "figures", figures)
    results = measure.measured(Path("python"), ["tiny"])
    rows = [line.split(" | ")[0] for line in measure.table(results, ["tiny"], "").splitlines()[2:10]]
    assert rows[:2] == [f"| {name}" for name in measure.OURS.values()]
    assert rows[2:] == [f"| {name}" for name in sorted(measure.FRAMEWORKS, key=len)]


def test_a_framework_that_fails_is_left_out(measure, monkeypatch):
    monkeypatch.setattr(
        measure, "figures", lambda *command: None if "Lightning Fabric" in command else FIGURES | {"ratio": 1.0}
    )
    results = measure.measured(Path("python"), list(measure.SIZES))
    assert set(results) == {*measure.OURS.values(), *measure.FRAMEWORKS} - {"Lightning Fabric"}


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit(3)", "print('no figures')", "pass", "import time; time.sleep(60)"],
    ids=["it fails", "it prints no figures", "it prints nothing", "it hangs"],
)
def test_a_process_without_figures_is_said_to_have_failed(measure, monkeypatch, capsys, code):
    monkeypatch.setattr(measure, "PROCESS_S", 1)
    assert measure.figures(sys.executable, "-c", code) is None
    assert " failed: " in capsys.readouterr().err
