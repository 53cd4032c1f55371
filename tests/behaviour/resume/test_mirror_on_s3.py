"""The mirror on a server that speaks S3; its packages are the extra `mirror-tests`, see `constraints.txt`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from noether.errors import StorageError
from noether.runs.mirror import feed
from noether.runs.mirror.store import Store
from noether.runs.resume.resume import resume

moto_server = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[mirror-tests]'")
pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[mirror-tests]'")

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of connections to a server that was stopped
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SECRET = "hunter5555"


class Server:
    """A server on loopback that keeps its objects while it is stopped."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import boto3

    server = Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(feed, "pause_s", lambda failures: 0.1)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield server
    bucket = boto3.resource("s3").Bucket("bucket")
    bucket.objects.all().delete()
    bucket.delete()
    server.stop()


@pytest.fixture
def mirrored(settings: dict[str, Any], server: Server) -> dict[str, Any]:
    return {**settings, "checkpoints.mirror": "s3://bucket/runs"}


@pytest.fixture
def whole(mirrored: dict[str, Any]) -> dict[str, Any]:
    callbacks = [each for each in mirrored["trainer.callbacks"] if "Fails" not in each["kind"]]
    return {**mirrored, "trainer.callbacks": callbacks}


@pytest.fixture
def store(mirrored: dict[str, Any]) -> Store:
    return Store("s3://bucket/runs", "mine")


def updates_in(run):
    return [int(path.name.removeprefix("step-")) for path in sorted((run / "checkpoints").glob("step-*"))]


def test_a_run_goes_on_from_s3_and_ends_with_the_same_bytes(run, mirrored, uninterrupted, remains, store):
    outcome = run(mirrored, run_id="mine")
    kept = [path for path in outcome.run_dir.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []
    shutil.rmtree(outcome.run_dir)
    resumed = resume("s3://bucket/runs/mine", quiet=True)
    assert remains(resumed) == remains(uninterrupted)
    assert max(store.updates()) == 12


def test_a_server_that_is_down_at_the_start_changes_nothing(run, finish, whole, uninterrupted, remains, server):
    server.stop()
    outcome = finish({**whole, "checkpoints.mirror_timeout_s": 3}, run_id="mine")
    assert remains(outcome) == remains(uninterrupted)
    assert "before everything was uploaded" in (outcome.run_dir / "log.txt").read_text()
    shutil.rmtree(outcome.run_dir)
    with pytest.raises(StorageError):
        run(whole, run_id="mine", resume="auto")
    server.start()


def test_a_server_that_goes_down_and_comes_back_gets_everything_and_training_is_the_same(
    finish, whole, uninterrupted, remains, server, store, lab
):
    """The library draws random numbers between its attempts, in a process of its own."""
    (lab / "switches.py").write_text(SWITCHES)
    switch = {"kind": "lab.switches.Switch", "every_n_updates": 1}
    from threading import Thread

    stop = Thread(target=lambda: (wait_for_file(lab.parent / "down"), server.stop()))
    back = Thread(target=lambda: (wait_for_file(lab.parent / "up"), server.start()))
    for thread in (stop, back):
        thread.start()
    outcome = finish({**whole, "trainer.callbacks": [*whole["trainer.callbacks"], switch]}, run_id="mine")
    for thread in (stop, back):
        thread.join()
    assert "answers again" in (outcome.run_dir / "log.txt").read_text()
    assert remains(outcome) == remains(uninterrupted)
    assert store.updates() == updates_in(outcome.run_dir)


SWITCHES = """
from pathlib import Path
from noether.core.callbacks import PeriodicCallback
from lab.stores import wait_for


class Switch(PeriodicCallback):
    def periodic_callback(self, *, update_counter):
        if update_counter.update == 4:
            wait_for(lambda: "step-000000000003" in " ".join(map(str, Path("runs/mine/checkpoints").iterdir())))
            Path("down").touch()
        if update_counter.update == 10:
            wait_for(lambda: "Training is not affected" in Path("runs/mine/log.txt").read_text())
            Path("up").touch()
"""


def wait_for_file(path):
    while not path.exists():
        threading.Event().wait(0.01)


def test_uploads_that_the_server_refuses_cost_a_warning(finish, whole, uninterrupted, remains):
    settings = {**whole, "checkpoints.mirror": "s3://another-bucket/runs"}
    outcome = finish(settings, run_id="mine")
    log = (outcome.run_dir / "log.txt").read_text()
    assert remains(outcome) == remains(uninterrupted)
    assert log.count("Training is not affected") == 1
    assert "step-000000000012" in log.splitlines()[-2]


def test_a_bucket_is_never_created(finish, whole):
    import boto3

    finish({**whole, "checkpoints.mirror": "s3://another-bucket/runs"}, run_id="mine")
    assert [bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]] == ["bucket"]


def test_a_large_file_is_uploaded_in_parts_and_verified(store, server):
    import hashlib

    from noether.checkpoint.manifest import FileRecord

    data = os.urandom(12 << 20)
    record = FileRecord(len(data), hashlib.sha256(data).hexdigest())
    store.write_blob(record, (data[start : start + 1000003] for start in range(0, len(data), 1000003)))
    assert b"".join(store.read_blob(record)) == data
    wrong = FileRecord(len(data), "0" * 64)
    with pytest.raises(ValueError):
        store.write_blob(wrong, [data])
    assert wrong.sha256 not in store.blobs()


def test_the_process_that_uploads_ends_when_the_run_is_killed(lab, tiny_spec, whole, workplace):
    import json

    import psutil

    spec = {"spec": tiny_spec, "set": whole, "run_id": "mine", "quiet": True}
    command = [sys.executable, "-c", PRINTS, json.dumps(spec)]
    environment = {**os.environ, "PYTHONPATH": str(workplace)}
    with subprocess.Popen(command, cwd=workplace, env=environment, stdout=subprocess.PIPE, text=True) as process:
        uploader = psutil.Process(int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
    assert psutil.wait_procs([uploader], timeout=10)[1] == []


PRINTS = """
import json, sys
import noether
from noether.runs.mirror import feed

start = feed._Uploader._start


def start_and_say(self):
    start(self)
    print(self._process.pid, flush=True)


feed._Uploader._start = start_and_say
options = json.loads(sys.argv[1])
noether.run(options.pop("spec"), **options)
import time
time.sleep(60)
"""
