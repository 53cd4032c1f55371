"""A run needs no standard streams: daemons, notebooks and test runners replace or close them."""

import io
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


def test_messages_go_to_a_stream_of_another_encoding(tiny_spec, monkeypatch, capfd):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert noether.run({**tiny_spec, "output": "läufe"}).status == "FINISHED"
    assert rb"l\xe4ufe" in stream.buffer.getvalue()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("redirected", "code"), [("", 0), (">/dev/full", 1)])
def test_a_command_prints_what_it_can_and_a_full_disk_is_one_error(tiny_spec, workplace, redirected, code):
    (workplace / "tiny.toml").write_text(tomli_w.dumps({**tiny_spec, "output": "läufe"}))
    command = f"export PYTHONIOENCODING=ascii; '{sys.executable}' -m noether spec resolve tiny.toml {redirected}"
    ended = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: " if code else "")
