"""Noether on Windows: specs are checked and planned there, and a run is refused with one clear error."""

import subprocess
import sys
from pathlib import Path

import pytest

AS_ON_WINDOWS = Path(__file__).with_name("as_on_windows.py")
SPEC = Path(__file__).parents[2] / "specs" / "smoke" / "digits.toml"


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, AS_ON_WINDOWS, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("arguments", [("--help",), ("plugins", "list"), ("check", str(SPEC)), ("plan", str(SPEC))])
def test_specs_are_checked_and_planned_without_what_only_posix_has(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ended = command(*arguments, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr


def test_a_run_is_refused_without_a_traceback_before_anything_is_written(tmp_path: Path) -> None:
    ended = command("run", str(SPEC), folder=tmp_path)
    assert ended.returncode == 2
    assert "error: unsupported system" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "runs").exists()
