"""A run needs no standard streams: daemons, notebooks and test runners replace or close them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

import noether

EVALUATION = {"kind": "offline-loss", "every_n_epochs": 1, "dataset_key": "test"}


class OnlyWrites:
    """A stream as loggers and notebooks make them: `write` and `flush`, nothing else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Refuses(OnlyWrites):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def closed():
    stream = Path(os.devnull).open("w")  # noqa: SIM115
    stream.close()
    return stream


@pytest.mark.parametrize("make", [OnlyWrites, lambda: None, closed, Refuses], ids=["bare", "missing", "closed", "full"])
def test_a_run_finishes_without_a_usable_stdout(tiny_spec, monkeypatch, capfd, make):
    monkeypatch.setattr(sys, "stdout", make())
    outcome = noether.run(tiny_spec, set={"trainer.callbacks": [EVALUATION]})
    assert (outcome.status, outcome.error) == ("FINISHED", None)
    assert "finished after" in (outcome.run_dir / "log.txt").read_text()
    assert capfd.readouterr().err == ""


def test_a_stream_that_only_writes_gets_the_messages(tiny_spec, monkeypatch):
    stream = OnlyWrites()
    monkeypatch.setattr(sys, "stdout", stream)
    noether.run(tiny_spec)
    assert "finished after" in stream.text


def test_the_command_works_with_closed_streams(tiny_spec, workplace):
    (workplace / "tiny.toml").write_text(tomli_w.dumps(tiny_spec))
    command = f"exec '{sys.executable}' -m noether run tiny.toml --run-id a <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    for file in (workplace / "runs/a").glob("*.*"):  # nobody's print went to a file that took a stream's number
        assert file.read_bytes()
    assert (workplace / "runs/a/log.txt").read_text().startswith("20")
