"""Measure other frameworks beside ours, and write the table of docs/explanation/performance.md.

python benchmarks/peers/measure.py                  everything: some minutes
python benchmarks/peers/measure.py --size tiny      one size only
python benchmarks/peers/measure.py --environment D  keep the frameworks' environment in D, and use it again

Each framework runs in a process of its own, beside the loop by hand in the same process. The frameworks are installed
into an environment of their own; ours runs in the environment of this command, on the same torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from written_block import write_block  # noqa: E402  # after the path that it is found in

PAGE = ROOT / "docs" / "explanation" / "performance.md"
BEGIN, END = "<!-- peers: written by benchmarks/peers/measure.py -->", "<!-- end of peers -->"
SIZES = {"tiny": "8→32→1, 32 samples", "middle": "512→1024→1024→512, 256 samples"}
FRAMEWORKS = (
    "Ignite, `Engine`",
    "Ignite, supervised trainer",
    "Lightning Fabric",
    "Lightning, `barebones=True`",
    "Lightning, logging the loss",
    "transformers, `Trainer`",
)
OURS = "**`noether run`**, its own data path included"

Results = dict[str, dict[str, dict[str, float]]]
"""Figures by framework and size."""


def environment(folder: Path) -> Path:
    """Return the Python of an environment with the frameworks; make it if it is not there.

    Args:
        folder: The environment's folder.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
        wanted = [torch, "-r", str(HERE / "requirements.txt"), "-c", str(ROOT / "constraints.txt")]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    return python


def figures(*command: str) -> dict[str, float]:
    """Return the figures that a process prints."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=HERE, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(python: Path, sizes: Sequence[str]) -> Results:
    """Return the figures of all frameworks, ours among them."""
    results: Results = {OURS: {size: figures(sys.executable, "ours.py", size) for size in sizes}}
    for name in FRAMEWORKS:
        results[name] = {size: figures(str(python), "frameworks.py", name, size) for size in sizes}
    return results


def table(results: Results, sizes: Sequence[str], versions: str) -> str:
    """Return the table in order of the first size's ratio, and the machine and the versions."""
    first, *others = sizes
    cells = [f"{first} ({SIZES[first]}): µs above", "ratio", *(f"{size} ({SIZES[size]}): ratio" for size in others)]
    lines = [
        f"| | {' | '.join(cells)} | {first}: Python calls above | weights |",
        "| --- | " + "---: | " * (len(cells) + 1) + "--- |",
    ]
    for name, found in sorted(results.items(), key=lambda each: each[1][first]["ratio"]):
        numbers = [f"{found[first]['us_above']:+.0f}", *(f"{found[size]['ratio']:.2f}" for size in sizes)]
        equal = "equal" if all(each["equal"] for each in found.values()) else "equal within rounding"
        lines.append(f"| {name} | {' | '.join(numbers)} | {found[first]['calls_above']:+.0f} | {equal} |")
    bare = ", ".join(f"{size} {min(found[size]['bare_us'] for found in results.values()):.0f} µs" for size in sizes)
    return "\n".join([*lines, "", f"The loop by hand, at its quickest: {bare}. Measured on {machine()}. {versions}"])


def machine() -> str:
    """Return the machine and its load."""
    load, cores = os.getloadavg()[1], os.cpu_count() or 1
    busy = f"; others used it too (load {load:.1f}), so that only ratios compare" if load > cores else ""
    python = f"{cores} cores, one thread, Python {platform.python_version()}"
    return f"{platform.machine()}, {python}, {datetime.now(UTC):%Y-%m-%d}{busy}"


def versions(python: Path) -> str:
    """Return the versions of the frameworks."""
    wanted = ["torch", *re.findall(r"^([\w-]+)==", (HERE / "requirements.txt").read_text(), re.MULTILINE)]
    code = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {wanted}))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip() + "."


def main(arguments: Sequence[str]) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="default: both")
    parser.add_argument("--environment", type=Path, help="default: a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        python = environment((options.environment or Path(temporary) / "peers").absolute())
        sizes = options.size or list(SIZES)
        write_block(PAGE, BEGIN, END, table(measured(python, sizes), sizes, versions(python)))


if __name__ == "__main__":
    main(sys.argv[1:])
