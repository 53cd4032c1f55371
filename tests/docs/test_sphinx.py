"""The pages build into a site without a warning."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

_NEEDED = ("sphinx", "myst_parser", "furo")
_MISSING = [name for name in _NEEDED if find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(_MISSING), reason=f"the site needs {', '.join(_MISSING)}: pip install sphinx myst-parser furo")
def test_the_site_builds_without_a_warning(repository: Path, tmp_path: Path):
    build = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
    command = [sys.executable, *build, str(repository / "docs"), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "reference" / "hooks.html").exists()
