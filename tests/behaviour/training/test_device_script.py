"""The script that proves and measures graphs on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "device" / "run.py"


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_it_says_in_one_line_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = ran("--out", str(tmp_path / "figures.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "no GPU was found, so nothing is measured; run this on a machine with CUDA\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_it_finds_equal_bits_and_writes_a_report_with_a_cpu_in_the_place_of_the_gpu(tmp_path: Path) -> None:
    done = ran("--on-cpu", "--out", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert all(row["equality"] == {"differs": [], "eager_because": []} for row in rows.values())
    assert all(row["figures"]["ratios"] for row in rows.values() if "figures" in row)
