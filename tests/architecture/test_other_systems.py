"""Noether on Windows: specs are checked and planned there, and a run is refused with one clear error."""

import subprocess
import sys
from pathlib import Path

AS_ON_WINDOWS = Path(__file__).with_name("as_on_windows.py")
SPEC = Path(__file__).parents[2] / "specs" / "smoke" / "digits.toml"


def test_specs_are_checked_and_planned_without_what_only_posix_has_and_a_run_is_refused(tmp_path: Path) -> None:
    commands = ["--help", "plugins list", f"check {SPEC}", f"plan {SPEC}", f"run {SPEC}"]
    ended = subprocess.run(
        [sys.executable, AS_ON_WINDOWS, *commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "error: unsupported system" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert all(f"noether {command}" in ended.stdout for command in commands), "each but the last has ended with 0"
    assert not (tmp_path / "runs").exists()
