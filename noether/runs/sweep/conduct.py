"""Conduct a sweep: trials in processes of their own, several at once, until all have ended or a signal comes."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from noether.checkpoint.durable import make_folders
from noether.errors import UsageError
from noether.runs.folder.lock import holder_of
from noether.runs.outcome import EXIT_CODE
from noether.runs.sweep import trial as inside
from noether.runs.sweep.journal import (
    FAILED,
    LONGEST_ERROR,
    PLOTS,
    RUNNING,
    STOPPED,
    WAITING,
    WITH_VALUE,
    Journal,
    Record,
    Trial,
    look,
    shown_value,
)
from noether.runs.sweep.plan import SweepPlan
from noether.runs.sweep.search import Search, require_optuna
from noether.spec.read.overrides import Unset
from noether.spec.sweep import key_of, options_of

_LOOK_EVERY_S = 0.05
Say = Callable[[str], object]


def conduct(
    plan: SweepPlan, *, processes: int | None = None, retry: bool = False, say: Say = print
) -> tuple[Record, int]:
    """Run the trials of a sweep that have not ended yet.

    Args:
        plan: The sweep.
        processes: Trials that run at once, in place of the number in the settings.
        retry: Run trials that failed again.
        say: Takes a line for each start and end of a trial.

    Returns:
        The journal, and the number of the signal that ended the sweep, 0 without one.

    Raises:
        UsageError: if a trial is wrong, the spec has changed, or another process conducts the sweep.
    """
    known, settings = plan.known(), plan.settings
    plan.check(plan.extremes() if known is None else known)
    if plan.method == "optuna" or settings.pruner is not None:
        require_optuna(settings)
    with plan.journal.locked():
        record = _begun(plan, known, retry=retry)
        search = Search(plan, record) if plan.method == "optuna" or settings.pruner is not None else None
        plan.journal.write(record)
        conductor = _Conductor(plan, record, search, processes or settings.processes, settings.trials or 0, say)
        with _signals() as received:
            conductor.run(received)
        if search is not None and conductor.has_news:
            _draw(plan, record, search)
    return record, received[0] if received else 0


def _begun(plan: SweepPlan, known: list[dict[str, Any]] | None, *, retry: bool) -> Record:
    """Return the journal with the trials of the table; those that it has no more stay and are not wanted."""
    journal, objective = plan.journal, plan.objective
    if not journal.exists:
        record = Record(journal.name, str(plan.path), plan.method, objective, plan.tables())
    else:
        record = journal.read()
        plan.require_same(record)
    record.method, record.spec = plan.method, str(plan.path)
    wanted = None if known is None else {key_of(values) for values in known}
    for trial in record.trials:
        trial.wanted = plan.allows(trial.values) if wanted is None else key_of(trial.values) in wanted
        if not trial.has_ended or (retry and trial.state == FAILED):
            trial.state = STOPPED if journal.paths(trial).run_path.exists() else WAITING
    for values in known or ():
        if record.find(values) is None:
            _require_free(journal, record.add(values))
    if known is None:
        settings = plan.settings
        missing = (settings.trials or 0) - sum(trial.wanted for trial in record.trials)
        for number in range(len(record.trials) + 1, len(record.trials) + missing + 1):
            _require_free(journal, Trial(number, {}))
    return record


def _require_free(journal: Journal, trial: Trial) -> None:
    """Check that the run of a new trial is not one that was started otherwise."""
    if (path := journal.paths(trial).run_path).exists():
        raise UsageError(
            f"{path} exists already, and belongs to no sweep: found a run with the id of trial {trial.number}",
            hint="give the sweep another --name, or move that run away",
        )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending: the trials end first."""
    received: list[int] = []
    known = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            known[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


@dataclass
class _Process:
    """The process of a trial, with this end of its socket and what was read from it and not taken yet."""

    trial: Trial
    popen: subprocess.Popen[bytes]
    link: socket.socket
    rest: bytes = b""


class _Conductor:
    def __init__(
        self, plan: SweepPlan, record: Record, search: Search | None, processes: int, trials: int, say: Say
    ) -> None:
        self.plan, self.record, self.search, self.processes, self.trials = plan, record, search, processes, trials
        self.journal, self.say = plan.journal, say
        self.running: list[_Process] = []
        self._tried: set[int] = set()
        self._awaited: set[int] = set()
        self._changed: str | None = None
        self.has_news = False

    def run(self, received: list[int]) -> None:
        """Run until nothing is left, or a signal has ended all trials; a second one kills them."""
        stops = count()
        told = next(stops)
        while True:
            if len(received) > told and self.running:
                told = next(stops)
                self._stop(signal.SIGTERM if told == 1 else signal.SIGKILL)
            if not received and self._changed is None:
                while len(self.running) < self.processes and (trial := self._next()) is not None:
                    self._start(trial)
            if not self.running and (received or self._changed is not None or not self._is_waiting()):
                break
            self._listen()
            for process in [one for one in self.running if one.popen.poll() is not None]:
                self._end(process)
        if self._changed is not None and not received:
            raise UsageError(self._changed, hint="undo the change and start the sweep again, or begin another: --name")

    # Which trial

    def _next(self) -> Trial | None:
        """Return the next trial to start; None if there is none now."""
        busy = {one.trial.number for one in self.running}
        for trial in self._open():
            if trial.number not in busy and self._is_free(trial):
                return trial
        wanted = sum(trial.wanted for trial in self.record.trials)
        if self.plan.method == "optuna" and self.search is not None and wanted < self.trials:
            return self.search.ask()
        return None

    def _open(self) -> list[Trial]:
        return [trial for trial in self.record.trials if trial.wanted and trial.state in (WAITING, STOPPED)]

    def _is_waiting(self) -> bool:
        """Return True if a trial of an earlier start still runs, which ends by itself as its sweep is gone."""
        return any(trial.number in self._awaited for trial in self._open() if trial.number not in self._tried)

    def _is_free(self, trial: Trial) -> bool:
        """Return False for a trial that ran in this sweep already, or whose run another process works on."""
        if trial.number in self._tried:
            return False
        path = self.journal.paths(trial).run_path
        holder = holder_of(path) if path.exists() else None
        if holder is None:
            self._awaited.discard(trial.number)
            return True
        if trial.number not in self._awaited:
            self._awaited.add(trial.number)
            self.say(f"{self.journal.run_id(trial)} is still in use{holder}; waiting for its end")
        return False

    # Start and end

    def _start(self, trial: Trial) -> None:
        if self._tried and self.plan.has_changed():
            self._changed = f"{self.plan.path} has changed while the sweep ran: its trials could not be compared"
            return
        self._tried.add(trial.number)
        if trial.state == STOPPED and self._take_result(trial, is_over=False):
            self._note(trial)
            return
        going_on = trial.state == STOPPED
        trial.state, trial.error = RUNNING, None
        self.journal.write(self.record)  # before the run: one that no journal knows would be a stranger's
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            self.running.append(_Process(trial, self._launched(trial, theirs.fileno()), ours))
        self.say(f"{self.journal.run_id(trial)} {'goes on' if going_on else 'starts'}: {words_of(trial)}")

    def _launched(self, trial: Trial, link: int) -> subprocess.Popen[bytes]:
        """Start the process of a trial, which has one end of a socket."""
        environment = {**os.environ, inside.SWEEP: self.journal.name, **self._threads()}
        environment.pop(inside.METRIC, None)
        plugins = list(self.plan.options.get("plugins", ()))
        if self.plan.settings.pruner is not None:
            environment[inside.METRIC] = self.record.objective.metric
            plugins.append(inside.PLUGIN)
        more = [part for plugin in plugins for part in ("-p", plugin)]
        with self.journal.open_output(trial) as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "-c", f"from {inside.PLUGIN} import main; main()", str(link)),
                    *("run", str(self.plan.path), *self._given(), *options_of(trial.values), *more),
                    *("--run-id", self.journal.run_id(trial), "--resume", "auto", "--quiet"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=[link],
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which asks for a checkpoint
            )

    def _end(self, process: _Process) -> None:
        trial = process.trial
        self.running.remove(process)
        self._hear(process)
        process.link.close()
        if not self._take_result(trial):
            code = process.popen.returncode
            trial.state = FAILED if 0 < code < EXIT_CODE else STOPPED
            if code < 0 or code > EXIT_CODE:
                trial.error = f"ended by {signal.Signals(abs(code) % EXIT_CODE).name}"
            else:
                trial.error = self._last_words(trial) or f"exit code {code}"
        self._note(trial)

    def _note(self, trial: Trial) -> None:
        self.has_news = True
        if self.search is not None:
            self.search.tell(trial)
        self.journal.write(self.record)
        ended = sum(one.has_ended for one in self.record.trials if one.wanted)
        total = self.trials if self.plan.method == "optuna" else sum(one.wanted for one in self.record.trials)
        value, metric = trial.value(self.record.objective), self.record.objective.metric
        result = f", {metric} = {value:.6g}" if value is not None else ""
        reason = f": {trial.error}" if trial.error and trial.state not in WITH_VALUE else ""
        self.say(f"{self.journal.run_id(trial)} {trial.state}{result}{reason} ({ended} of {total})")

    def _take_result(self, trial: Trial, *, is_over: bool = True) -> bool:
        """Take the end of a trial from its run folder; return False if it has not come to its end by itself.

        Args:
            trial: The trial.
            is_over: True if its process has just ended, so that a failure is final; else it is tried again.
        """
        state = look(self.journal, self.record, trial)
        if state not in WITH_VALUE and (state != FAILED or not is_over):
            return False
        trial.state = state
        return True

    def _last_words(self, trial: Trial) -> str | None:
        with suppress(OSError):
            errors = [line for line in self.journal.output_of(trial).splitlines() if line.startswith("error")]
            return errors[-1][:LONGEST_ERROR] if errors else None
        return None

    def _stop(self, number: signal.Signals) -> None:
        self.say(
            f"stopping {len(self.running)} running trial{'s' * (len(self.running) > 1)}, which commit a checkpoint"
            if number == signal.SIGTERM
            else "killing the running trials: they go on from their last checkpoint"
        )
        for process in self.running:
            with suppress(ProcessLookupError):
                process.popen.send_signal(number)

    # Between

    def _listen(self) -> None:
        """Wait a moment, and answer what trials report to the pruner."""
        links = {process.link: process for process in self.running}
        if not links:
            time.sleep(_LOOK_EVERY_S)
            return
        for link in select.select(list(links), [], [], _LOOK_EVERY_S)[0]:
            if not self._hear(links[link]):
                time.sleep(_LOOK_EVERY_S / 10)  # a closed socket is always ready, until its process has ended

    def _hear(self, process: _Process) -> bool:
        """Answer the reports that have come from a trial; return False if its socket is closed."""
        try:
            data = process.link.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, process.rest = (process.rest + data).split(b"\n")
        for line in lines:
            update, value = json.loads(line)
            trial = process.trial
            if self.search is not None and not trial.doomed:
                trial.doomed = self.search.prunes(trial, update, float(value))
                self.journal.write(self.record)
            with suppress(OSError):
                process.link.sendall(inside.STOP if trial.doomed else inside.GO)
        return bool(data)

    def _given(self) -> list[str]:
        given = []
        for override in self.plan.options.get("overrides", ()):
            given += ["--unset" if isinstance(override, Unset) else "-s", str(override)]
        for trusted in self.plan.options.get("trust", ()):
            given += ["--trust", trusted]
        return given

    def _threads(self) -> dict[str, str]:
        """Return the environment that divides the cores among the processes."""
        if self.processes == 1:
            return {}
        from noether.runs.process_state import usable_cores

        return {"OMP_NUM_THREADS": str(max(1, usable_cores()[0] // self.processes))}


def words_of(trial: Trial) -> str:
    """Return the values of a trial in words: `model.optimizer.lr = 0.001, seed = 3`; numbers are rounded."""
    return ", ".join(f"{path} = {shown_value(value)}" for path, value in trial.values.items())


def _draw(plan: SweepPlan, record: Record, search: Search) -> None:
    """Write Optuna's plots of the trials into the folder of the sweep."""
    folder = plan.journal.folder / PLOTS
    if sum(trial.state in WITH_VALUE for trial in record.trials) < 2:
        return
    with suppress(OSError):
        make_folders(folder)
        search.draw(folder)
