"""The version of a build: that of the release tag of the commit, else that of the next release."""

import subprocess
from pathlib import Path

NEXT = "0.1.0"
"""The next release; raised by the first commit after a release."""


def version(folder: Path = Path(__file__).parent) -> str:
    """Return `0.1.0` at the tag `v0.1.0`, `0.2.0.dev3+gabc1234` three commits after it, and before any tag `NEXT`.

    A source distribution holds its version and does not call this.
    """
    line = ["git", "-C", str(folder), "describe", "--tags", "--long", "--match", "v[0-9]*"]
    try:
        described = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, or no tag yet
        return NEXT
    tag, distance, commit = described.rsplit("-", 2)
    if distance == "0":
        return tag.removeprefix("v")
    if tag.removeprefix("v") == NEXT:
        raise SystemExit(f"error: {NEXT} was released as {tag}: raise NEXT in {Path(__file__).name}")
    return f"{NEXT}.dev{distance}+{commit}"
