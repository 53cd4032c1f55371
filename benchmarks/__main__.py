"""Run benchmarks with pytest: `python benchmarks [PATHS AND OPTIONS OF PYTEST]`, all of them without a path.

Without the options of the tests, which skip benchmarks and run in several processes.
"""

from __future__ import annotations

import subprocess
import sys

SETTINGS = ("testpaths=benchmarks", "timeout=900", "addopts=--import-mode=importlib --strict-markers -ra")

if __name__ == "__main__":
    # In a process of its own: `noether` and `benchmarks` are those of the working folder there.
    options = (f"--override-ini={setting}" for setting in SETTINGS)
    command = [sys.executable, "-m", "pytest", "--benchmark-only", "-q", *options, *sys.argv[1:]]
    sys.exit(subprocess.run(command, check=False).returncode)
