"""Attempts at one run, each a process that a test kills, until the run has finished."""

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from noether.checkpoint.manifest import SPEC
from noether.checkpoint.paths import UNFINISHED, checkpoint_folders, read_checkpoint

DEADLINE_S = 60.0
LOOK_EVERY_S = 0.001
_LOST = re.compile(r"; (\d+) updates after it are computed again")
_BY_THE_CLOCK = ("profiling/",)


class Attempt:
    """One process that works on a run.

    Args:
        pid: Its id, and that of its process group.
        answers: Descriptor on which its end is told.
    """

    def __init__(self, pid: int, answers: int) -> None:
        self.pid = pid
        self._answers = answers
        self._started = time.monotonic()
        self.status: int | None = None
        """The exit code, or minus the signal, once it is known to have ended."""

    def has_ended(self, within: float = 0.0) -> bool:
        """Return True if it has ended, or ends within some seconds."""
        if self.status is None and select.select([self._answers], [], [], within)[0]:
            self.status = _number(self._answers)
        return self.status is not None

    def reaches(self, condition: Callable[[], object]) -> bool:
        """Wait until something is the case; whether that was before its end."""
        while not self.has_ended(LOOK_EVERY_S):
            if condition():
                return True
            assert time.monotonic() - self._started < DEADLINE_S, "neither came what a test waits for, nor the end"
        return False

    def send(self, number: int) -> None:
        """Send a signal to the whole group; one that has ended, but is not reaped, does not mind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def end(self) -> int:
        """Wait for its end; return its exit code, or minus the signal."""
        if not self.has_ended(DEADLINE_S):
            self.kill()
            raise AssertionError(f"an attempt did not end within {DEADLINE_S} s and was killed")
        assert self.status is not None
        return self.status

    def kill(self) -> int:
        """Kill it at any point; return its exit status, which may be of a moment before."""
        self.send(signal.SIGKILL)
        assert self.has_ended(DEADLINE_S), "a killed process ends"
        assert self.status is not None
        return self.status


class Chaos:
    """Starts attempts at runs of one spec.

    Args:
        folder: The working folder, with all that the spec names.
        spec: The spec.
        changes: What to change in it to have a run of an instant, which imports everything.
        by_the_clock: Beginnings of the keys of metrics that are measured.

    Attributes:
        uninterrupted: What `remains` of a run that nobody disturbs.
        seconds: How long that takes.
    """

    def __init__(
        self, folder: Path, spec: dict[str, Any], changes: dict[str, Any], by_the_clock: tuple[str, ...] = _BY_THE_CLOCK
    ) -> None:
        self.folder, self.spec, self.by_the_clock = folder, spec, by_the_clock
        self._runs = 0
        self._attempt: Attempt | None = None
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._order(run_id="first", set=changes)
            assert _number(self._answers) == 0, "the first run of all, in the zygote, has failed"
            started = time.monotonic()
            assert self.start("uninterrupted").end() == 0, self.said
            self.seconds = time.monotonic() - started
            self.uninterrupted = self.remains("uninterrupted")
        except BaseException:
            self.close()
            raise

    def new_run(self) -> str:
        """Return the id of a run that is not there yet."""
        self._runs += 1
        return f"run-{self._runs}"

    def start(self, run_id: str, changes: dict[str, Any] | None = None) -> Attempt:
        """Begin or continue a run in a process of its own; the one before must have ended."""
        assert self._attempt is None or self._attempt.has_ended(), "one attempt after the other"
        self._order(run_id=run_id, resume="auto", set=changes)
        self._attempt = Attempt(_number(self._answers), self._answers)
        return self._attempt

    def checkpoints(self, run_id: str) -> Path:
        """Return the folder of a run's steps."""
        return self.folder / "runs" / run_id / "checkpoints"

    def entries(self, run_id: str) -> list[Path]:
        """Return everything that is in a run's checkpoint folder at this moment."""
        try:
            return list(self.checkpoints(run_id).iterdir())
        except FileNotFoundError:
            return []

    def is_saving(self, run_id: str) -> bool:
        """Return True if a save is in progress, or was interrupted."""
        return any(entry.name.startswith(UNFINISHED) for entry in self.entries(run_id))

    def newest(self, run_id: str) -> int:
        """Return the update of the newest resumable checkpoint; 0 if there is none."""
        manifests = [read_checkpoint(step)[0] for step in checkpoint_folders(self.checkpoints(run_id))]
        return max((manifest.update for manifest in manifests if manifest.resumable), default=0)

    def check_checkpoints(self, run_id: str) -> int:
        """Read every committed step, each byte compared with its hash; return how many there are."""
        return len([read_checkpoint(step) for step in checkpoint_folders(self.checkpoints(run_id))])

    def lost_updates(self, run_id: str) -> list[int]:
        """Return how many updates each continuation of a run had to compute again."""
        log = self.folder / "runs" / run_id / "log.txt"
        return [int(found[1]) for found in _LOST.finditer(log.read_text())]

    def remains(self, run_id: str) -> dict[str, Any]:
        """Return the comparable results of a run: each byte of the last checkpoint, and the metrics without times.

        Where a checkpoint says how long the metrics are, it has to mean all of them; how many bytes that is depends on
        the digits of clock times.
        """
        run = self.folder / "runs" / run_id
        step = checkpoint_folders(run / "checkpoints")[-1]
        manifest, files = read_checkpoint(step)
        del files[SPEC]  # attempts of one test may differ in what does not alter training
        found: dict[str, Any] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        trainer = json.loads(files["trainer.json"])
        trainer["trainer"]["log_writer"]["metrics"] -= (run / "metrics.jsonl").stat().st_size
        for state in trainer["callbacks"].values():
            if isinstance(state, dict):
                state.pop("seconds", None)
        found["trainer.json"] = trainer
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in metrics:
            del line["time"]
            line["metrics"] = {k: v for k, v in line["metrics"].items() if not k.startswith(self.by_the_clock)}
        names = {name: (named.update, named.weights) for name, named in manifest.names.items()}
        return {**found, "metrics": metrics, "iteration": manifest.iteration, "names": names}

    @property
    def said(self) -> str:
        """The output of all attempts."""
        return (self.folder / "attempts.txt").read_text()

    def close(self) -> None:
        """End the processes that are left."""
        if self._attempt is not None and not self._attempt.has_ended():
            self._attempt.kill()
        self._process.kill()
        self._process.communicate()

    @property
    def _answers(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def _order(self, **options: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"spec": self.spec, "quiet": True, **options}).encode() + b"\n")
        self._process.stdin.flush()


def _number(descriptor: int) -> int:
    """Read a line with a number."""
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([descriptor], [], [], DEADLINE_S)[0], "the zygote says nothing"
        read = os.read(descriptor, 1)
        assert read, "the zygote has died"
        line += read
    return int(line)
