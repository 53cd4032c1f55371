"""The short tutorials from an empty folder: files and commands as printed, in their order."""

import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noether.cli.main import main

CTRL_C = "stopped by Ctrl-C"


@pytest.mark.slow
def test_the_first_callback_logs_and_takes_an_option(page, project: Path, in_process):
    said = dict(follow(page["first-callback.md"], project, in_process))
    plain, watched, part = (metrics_of(project / "runs" / name) for name in ("plain", "watched", "part"))
    norms = [[line["weights/norm"] for line in lines if "weights/norm" in line] for lines in (plain, watched, part)]
    assert [len(each) for each in norms] == [0, 3, 3]
    assert all(0 < one < other for one, other in zip(norms[2], norms[1], strict=True))
    losses = [[line.get("loss/online/total") for line in lines] for lines in (plain, watched)]
    assert losses[0] == losses[1]
    assert "weights/norm" in said["noether run digits.toml --run-id watched"]
    assert "begin with this" in said["noether plugins info watching.WeightNormCallback"]
    assert "weights/norm" in (project / "norms.html").read_text()


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_is_evaluated(page, project: Path, in_process, capsys):
    said = dict(follow(page["resume-and-evaluate.md"], project, in_process))
    assert "KILLED" in said["noether runs show digits"]
    assert "attempt 2 continues after" in said["noether resume digits"]
    assert metrics_of(project / "runs/digits")[-1]["epoch"] == 60
    assert "best_model.loss.test.total" in said["noether checkpoint list digits"]
    assert "accuracy/test/label" in said["noether eval digits --checkpoint best_model.loss/test/total"]
    assert "model.hidden" in said["noether runs compare digits wide"]
    (predict,) = [block.text for block in page["resume-and-evaluate.md"].blocks("python")]
    exec(predict, {})
    assert capsys.readouterr().out == "[0 1 2 3 4]\n"


def follow(page, folder: Path, command: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Write each file and run each command of a page in their order; yield each command and its output."""
    for block in page.all_blocks():
        place = block.mark.partition(": ")[2]
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.mark.startswith("append: "):
            (folder / place).write_text((folder / place).read_text() + "\n" + block.text)
        elif block.language == "console":
            for line in block.text.splitlines():
                printed = line.removeprefix("$ ")
                yield printed, stopped(printed, folder) if block.mark == CTRL_C else command(printed)


@pytest.fixture
def in_process(project: Path, monkeypatch, capsys) -> Callable[[str], str]:
    """A function that runs a command in this process, and returns its output; code of the project is read anew."""

    def run(printed: str) -> str:
        sys.modules.pop("watching", None)
        importlib.invalidate_caches()
        monkeypatch.setattr(sys, "argv", shlex.split(printed))
        with pytest.raises(SystemExit) as ended:
            main()
        said = "".join(capsys.readouterr())
        assert not ended.value.code, f"{printed}\n{said}"
        return said

    return run


def stopped(printed: str, folder: Path) -> str:
    """Run a command, and stop it by Ctrl-C once it has logged metrics."""
    command = [sys.executable, "-m", *shlex.split(printed)]
    metrics = folder / "runs/digits/metrics.jsonl"
    with subprocess.Popen(command, cwd=folder, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        while run.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        said = run.communicate()[0].decode()
    assert run.returncode == 130, said
    return said


def metrics_of(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{**line["metrics"], "epoch": line["epoch"]} for line in lines if "metrics" in line]
