"""Every kind of tracker fault, with real processes killed in the middle of it: each point is there once in the end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from noether.core.trackers.mlflow.config import Names

HERE = Path(__file__).parent
RESUMED = 3  # faulty requests that the resumed process meets
KINDS = [
    "refuses", "hang", "reset", "lost reply", "half closed", "cut", "html", "redirect", "empty", "empty done", "odd",
    "null", "list", "forget", "twice", "wait", "too large", 401, 403, 429, 500, 502, 503, "restored",
    "restored to nothing",
]  # fmt: skip
MET_ONCE = {"hang", 401, 403, "restored to nothing"}
"""Faults after which a process does not ask again, or not soon."""
MOMENTS = ["as it comes", "as it is answered", "later"]
SHORT = {
    ("lost reply", "as it is answered"),
    ("empty", "later"),
    ("odd", "as it comes"),
    ("too large", "as it is answered"),
    ("forget", "later"),
    ("restored", "later"),
}
CASES = [
    pytest.param(kind, moment, marks=() if (kind, moment) in SHORT else pytest.mark.long)
    for kind in KINDS
    for moment in MOMENTS
]


class Processes:
    """Real processes that train or deliver, forked from one that has imported everything."""

    def __init__(self, folder, first):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "attempts.py")],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )  # fmt: skip
        self.tell(first)
        assert self.hear() == 0

    def tell(self, options):
        self.process.stdin.write(json.dumps(options) + "\n")

    def hear(self):
        return int(self.process.stdout.readline())

    def run(self, fault, **options):
        """Run a child, and return how it ended."""
        self.tell(options)
        fault.pid = self.hear()
        ended = self.hear()
        fault.pid = None
        return ended

    @property
    def said(self):
        return (self.folder / "attempts.txt").read_text()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


class Fault:
    """Decides what the server does with each request, and kills the process in the middle of a fault."""

    def __init__(self, fake, kind, moment):
        self.fake, self.kind, self.moment = fake, kind, moment
        self.pid = None
        self.batches = self.faulty = self.left = self.kills = 0
        fake.mode, fake.after = self.decide, self.handled

    def begin(self, healthy):
        """Let some batches pass, then fail, and kill the process."""
        self.batches, self.faulty, self.left, self.armed = healthy, 0, 10**6, True

    def decide(self, call):
        if not call:
            return "ok"
        if call == "runs/log-batch":
            self.batches -= 1
            if self.batches == 1:
                self.fake.back_up()
        if self.batches >= 0 or not self.left:
            return "ok"
        self.left -= 1
        self.faulty += 1
        if self.faulty == 1 and str(self.kind).startswith("restored"):
            if self.kind == "restored to nothing":
                self.fake.backup = {}
            self.fake.restore()
        if self.faulty == 1 and self.kind in MET_ONCE:
            threading.Timer(0.0 if self.moment == "as it comes" else 0.1, self.kill).start()
        if self.faulty == (1 if self.moment == "as it comes" else 3):
            self.kill()
        if self.kind == "refuses":
            return "reset"
        return "ok" if str(self.kind).startswith("restored") else self.kind

    def handled(self, call):
        if self.moment == "as it is answered" and self.faulty and self.left:
            self.kill()

    def kill(self):
        if self.armed and self.pid is not None:
            self.armed = False
            self.kills += 1
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(HERE.parent / "lab", folder / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 3)).astype("float32")
    np.savez(folder / "train.npz", x=x, y_target=x[:, :2])
    return folder


def spec_for(address):
    return {
        "name": "faults",
        "device": "cpu",
        "threads": 1,
        "datasets": {"train": {"kind": "file", "path": "train.npz"}},
        "model": {"kind": "mlp", "hidden": [8], "optimizer": {"kind": "AdamW", "lr": 0.01}},
        "trainer": {
            "kind": "weighted-loss",
            "max_updates": 24,
            "effective_batch_size": 8,
            "forward_properties": ["x"],
            "target_properties": ["y_target"],
            "field_weights": {"y": 1.0},
            "callbacks": [
                {"kind": "checkpoint", "every_n_updates": 5},
                {"kind": "lab.trackers.Paces", "every_n_updates": 2},
            ],
        },
        "trackers": [
            {"kind": "mlflow", "tracking_uri": address, "request_timeout_s": 1, "flush_timeout_s": 2.0},
        ],
    }


@pytest.fixture(scope="module")
def processes(place, fake_server_class):
    fake = fake_server_class(place / "warm-up")
    made = Processes(place, {"spec": spec_for(fake.address), "run_id": "first"})
    yield made
    made.close()
    fake.down()


def points_of_file(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Counter(
        (Names().of(key), line["update"])
        for line in lines
        for key, value in line["metrics"].items()
        if value not in ("Infinity", "-Infinity") and not Names().is_parameter(key)
    )


@pytest.mark.parametrize(("kind", "moment"), CASES)
def test_each_point_is_there_once_after_a_fault_a_kill_a_resume_and_a_sync(
    processes, place, fake_server_class, figures, kind, moment
):
    fake = fake_server_class(place / "artifacts")
    try:
        fault, spec = Fault(fake, kind, moment), spec_for(fake.address)
        run_id = f"{kind}-{moment}".replace(" ", "-")
        fault.begin(healthy=4)
        ended = processes.run(fault, spec=spec, run_id=run_id)
        assert (ended, fault.kills) == (-signal.SIGKILL, 1), processes.said
        fault.left = RESUMED
        assert processes.run(fault, spec=spec, run_id=run_id, resume="auto") == 0, processes.said
        fault.left = 0
        assert processes.run(fault, run=run_id, store=fake.address, verify=True) == 0, processes.said

        expected = points_of_file(place / "runs" / run_id)
        run_of_this = json.loads((place / "runs" / run_id / "spool/mlflow.json").read_text())["reference"]["run_id"]
        stored = Counter((key, step) for run in fake.runs.values() for key, _, step, _ in run.points)
        figures(
            "tracker faults",
            cases=1,
            produced=expected.total(),
            lost=(expected - stored).total(),
            doubled=(stored - expected).total(),
            kills=fault.kills,
        )
        assert stored == expected
        assert fake.runs[run_of_this].status == "FINISHED"
    finally:
        fake.down()
