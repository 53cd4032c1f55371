"""Measure other frameworks beside ours, and write the table of docs/explanation/performance.md.

python benchmarks/peers/measure.py                  everything: five minutes
python benchmarks/peers/measure.py --size tiny      one size only
python benchmarks/peers/measure.py --environment D  keep the frameworks' environment in D, and use it again

Each framework runs in a process of its own, beside the loop by hand in the same process. The frameworks are installed
into an environment of their own, which is deleted in the end; ours runs in the environment of this command, on the same
torch. A framework that fails is left out of the table, and the exit code is 1.
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
from typing import Any

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
OURS = {
    "ready": "**`noether run`**, batches lie ready",
    "path": "**`noether run`**, with its own data path",
}
INSTALL_S, PROCESS_S = 900, 300  # a busy machine included; a process takes 10 to 20 s on a quiet one

Results = dict[str, dict[str, dict[str, float]]]
"""Figures by framework and size."""


def environment(folder: Path) -> Path:
    """Return the Python of an environment with the frameworks; make it unless a whole one is there.

    Args:
        folder: The environment's folder.
    """
    python, whole = folder / "bin" / "python", folder / "installed"
    if not whole.exists():
        venv.create(folder, with_pip=True, clear=True)
        torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
        wanted = [torch, "-r", str(HERE / "requirements.txt"), "-c", str(ROOT / "constraints.txt")]
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted]
        subprocess.run(command, check=True, timeout=INSTALL_S)
        whole.touch()
    return python


def figures(*command: str) -> dict[str, float] | None:
    """Return the figures that a process prints; None if it fails, which is said on standard error."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    options: Any = {"cwd": HERE, "env": variables, "capture_output": True, "text": True, "timeout": PROCESS_S}
    try:
        done = subprocess.run(command, check=True, **options)
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        print(f"{' '.join(command)} failed: {error}\n{str(getattr(error, 'stderr', ''))[-2000:]}", file=sys.stderr)
        return None


def measured(python: Path, sizes: Sequence[str]) -> Results:
    """Return the figures of all frameworks that work, ours among them."""
    commands = {name: (sys.executable, "ours.py", "SIZE", way) for way, name in OURS.items()}
    commands |= {name: (str(python), "frameworks.py", name, "SIZE") for name in FRAMEWORKS}
    results: Results = {}
    for name, command in commands.items():
        found = {size: figures(*(size if part == "SIZE" else part for part in command)) for size in sizes}
        whole = {size: each for size, each in found.items() if each is not None}
        if len(whole) == len(sizes):
            results[name] = whole
            print(f"{name}: " + ", ".join(f"{size} {each['ratio']:.2f}" for size, each in whole.items()), flush=True)
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


def main(arguments: Sequence[str]) -> int:
    """Measure and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="default: both")
    parser.add_argument("--environment", type=Path, help="default: a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        python = environment((options.environment or Path(temporary) / "peers").absolute())
        sizes = options.size or list(SIZES)
        results = measured(python, sizes)
        if results:
            write_block(PAGE, BEGIN, END, table(results, sizes, versions(python)))
    return int(len(results) < len(OURS) + len(FRAMEWORKS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
