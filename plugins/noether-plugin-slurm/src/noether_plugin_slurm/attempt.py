"""An attempt at a run in a job: a child process, stopped with a checkpoint and continued by the next attempt."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

_ENDED_WITH = "NOETHER_ENDED_WITH"
"""Variable in which a launcher of Noether names a file for the exit code of its ranks."""
_SIGNALLED = 128
"""Exit code of `noether run` that a signal has stopped, before the number of the signal is added."""
_PATIENCE = 30.0
"""Seconds that Slurm waits after SIGTERM before it kills, `KillWait`, by default."""
_SETTLED = 5.0
"""Seconds in which a run has taken notice of a SIGTERM that was sent to every process of the job."""
_FIRST_PORT, _PORTS = 20000, 10000
"""Ports at which the nodes of a job meet; below those that systems give to other connections."""
_LOOKS = 0.1
"""Seconds between two looks at the child."""


class RunNotFinishedError(RuntimeError):
    """A run that did not finish, and that is not requeued."""


class Attempt:
    """Runs a command in a job; submitit calls it there, pickled, and calls `checkpoint` if the job is to be requeued.

    The command is a child process, so that submitit keeps its own signals. It is told to stop by SIGHUP. Noether counts
    that for nothing after a SIGTERM, which Slurm may have sent to every process of the job; a second SIGTERM would end
    the run before its checkpoint. Since Python handles the lower signal first if two are pending, SIGHUP is held back
    until the run has handled its SIGTERM.

    A command with several ranks is a launcher with a process for each. They agree on a stop, so SIGHUP goes to them; a
    launcher would take it for a second signal if it has got a SIGTERM. A job of several nodes has an attempt on each.

    Args:
        command: The command; it continues where an earlier attempt was stopped.
        folder: Its working folder.
        most: Attempts that a run may take, with the first.
        number: Number of this attempt, from 1.
        patience: Seconds to wait, after a SIGTERM to the whole job, for the signal that asks for a requeue.
        settled: Seconds after such a SIGTERM before a run that still trains is told to stop.
        nodes: Nodes of the job; with several, the command is that of torchrun on each of them.
        ranks: Ranks on each node.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        most: int,
        number: int = 1,
        patience: float = _PATIENCE,
        settled: float = _SETTLED,
        *,
        nodes: int = 1,
        ranks: int = 1,
    ) -> None:
        self.command, self.folder, self.most = list(command), str(folder), most
        self.number, self.patience, self.settled = number, patience, settled
        self.nodes, self.ranks = nodes, ranks
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_with: Path | None = None
        self._is_cancelled = False
        self._stops_at = float("inf")

    def __call__(self) -> int:
        """Run the command to its end; return 0.

        Raises:
            RunNotFinishedError: if it failed, or was stopped and is not requeued.
            SystemExit: by submitit, after a requeue.
        """
        print(f"attempt {self.number} of at most {self.most}: {' '.join(self.command)}", flush=True)
        with TemporaryDirectory(prefix="noether-slurm-") as scratch:
            code = self._run(Path(scratch))
        if code:
            raise RunNotFinishedError(self._reason(code))
        return 0

    def _run(self, scratch: Path) -> int:
        import submitit

        environment = dict(os.environ)
        if self.nodes > 1:
            self._ended_with = scratch / "exit-code"
            environment |= {**rendezvous(), _ENDED_WITH: str(self._ended_with)}
        former = signal.signal(signal.SIGTERM, self._note_cancelled)
        try:
            self._process = subprocess.Popen(self.command, cwd=self.folder, env=environment, preexec_fn=_set_signals)
            code = self._exit_code()
            if _is_stop(code) and self.number < self.most:
                self._ask_for_requeue()
        except submitit.core.utils.UncompletedJobError:  # raised by submitit where `checkpoint` returned None
            code = self._exit_code()
        finally:
            signal.signal(signal.SIGTERM, former)
            if self._process is not None:  # of a job that is ended in another way; nothing, if the run has ended
                os.kill(self._process.pid, signal.SIGHUP)
        return code

    def checkpoint(self) -> Any:
        """Stop the command, and return the next attempt; None if there is nothing to requeue."""
        import submitit

        if not self._is_cancelled:
            self._stops_at = time.monotonic()
        if self.number >= self.most or (self._process is not None and not _is_stop(self._exit_code())):
            return None
        following = (self.number + 1, self.patience, self.settled)
        again = Attempt(self.command, Path(self.folder), self.most, *following, nodes=self.nodes, ranks=self.ranks)
        return submitit.helpers.DelayedSubmission(again)

    def _note_cancelled(self, number: int, frame: FrameType | None) -> None:
        """Note that the job is ended, as by `scancel` and a preemption; both send SIGTERM to every process."""
        self._is_cancelled = True
        self._stops_at = time.monotonic() + self.settled

    def _ask_for_requeue(self) -> None:
        """Let submitit requeue the job, unless Slurm has ended it and sends no signal that asks for a requeue."""
        if not self._is_cancelled:
            os.kill(os.getpid(), preemption_signal())
        time.sleep(self.patience)  # the handler of submitit interrupts it, and does not return

    def _exit_code(self) -> int:
        """Wait for the command, stop it in its time, and return its exit code; a signal handler may call it again.

        `Popen.wait` holds a lock while it waits, which a handler would wait for in vain.
        """
        assert self._process is not None, "the command has been started"
        while (ended := os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
            if time.monotonic() >= self._stops_at:
                print("stopping the run, which saves its checkpoint", flush=True)
                self._stops_at = float("inf")
                self._stop(self._process.pid)
            time.sleep(_LOOKS)
        if self._ended_with is not None and self._ended_with.exists():  # torchrun has codes of its own
            return int(self._ended_with.read_text(encoding="ascii"))
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _stop(self, command: int) -> None:
        ranks = children_of(command) if self.nodes * self.ranks > 1 else []
        for process in ranks or [command]:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, signal.SIGHUP)

    def _reason(self, code: int) -> str:
        if not _is_stop(code):
            return f"noether run ended with exit code {code}, and is not requeued; its error is above"
        if self.number >= self.most:
            return f"attempt {self.number} of at most {self.most} was stopped; submit the run again to continue it"
        return "the job was ended by SIGTERM and not requeued; submit the run again to continue it"


def rendezvous() -> dict[str, str]:
    """Return the variables that tell torchrun its node and the address of the first one."""
    import submitit

    job = submitit.JobEnvironment()
    number = int(job.raw_job_id)
    return {
        "PET_NODE_RANK": str(job.node),
        "PET_MASTER_ADDR": job.hostnames[0],
        "PET_MASTER_PORT": str(_FIRST_PORT + number % _PORTS),  # two jobs on a node have two ports
    }


def children_of(process: int) -> list[int]:
    """Return the children of a process; empty where the system has no `/proc`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name, which may hold anything, in parentheses: the state and the parent.
            if int(status.read_text(errors="replace").rpartition(")")[2].split()[1]) == process:
                found.append(int(status.parent.name))
    return found


def preemption_signal() -> signal.Signals:
    """Return the signal by which Slurm announces the end of a job, as submitit has asked it to."""
    import submitit

    return signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]


def _is_stop(code: int) -> bool:
    """Return True for a run that a signal has stopped, before its first update or at a checkpoint; not for Ctrl-C."""
    stops = (signal.SIGHUP, signal.SIGTERM)
    return -code in stops or (code > _SIGNALLED and code != _SIGNALLED + signal.SIGINT)


def _set_signals() -> None:
    """Let the child ignore the signal that is for submitit, and obey SIGHUP also below `nohup`."""
    signal.signal(preemption_signal(), signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
